"""`run_benchmark`: everything there is to measure about a bundle, in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path

from florence_edge.backends.registry import open_backend
from florence_edge.bundle import Bundle
from florence_edge.card import identity
from florence_edge.codec import Codec
from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.model import Florence
from florence_edge.tasks import find

from .camera import Camera
from .clock import Clock, WallClock, seconds
from .contenders import OURS, Job, Question, find_kind
from .growth import Growth, grow
from .live import Live
from .machine import this_machine
from .pictures import Picture, read_pictures
from .power.conditions import look
from .power.meter import Energy
from .race import cold_start, line_up, make_workloads, race
from .recorder import Recorder
from .report import FORMAT, Footprint, Model, Report
from .roofline import Roofline, roofline
from .scenarios import Scenario
from .series import Series
from .settings import RaceSettings, Rival, Settings
from .stability import warnings
from .stages import StageMeter, Stages
from .standings import Entry, Race, Workload
from .work import stage_work
from .worker import Reply

Note = Callable[[str], None]
Keep = Callable[[Report], object]


def run_benchmark(
    bundle: str | PathLike[str] | Bundle,
    images: Sequence[Path] = (),
    *,
    settings: Settings | None = None,
    race_settings: RaceSettings | None = None,
    note: Note = lambda text: None,
    keep: Keep = lambda report: None,
) -> Report:
    """Measures a bundle on this machine, and races it against the rivals; without images a scene is drawn.

    `note` is told what is being done; `keep` is given the report so far before a race begins, which takes long.
    Everything that can be checked is checked before the first measurement: raises `BundleError`, `ImageError` and
    `InputError` as `Florence` does, `BenchmarkError` where a measurement fails. Rivals that fail are in the report.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    data, pictures = read_pictures(images)
    return _Bench(opened, data, pictures, settings or Settings(), race_settings or RaceSettings(), note).run(keep)


def steps(settings: Settings, race_settings: RaceSettings) -> int:
    """How often `note` is called, at most."""
    contenders = 2 * (1 + len(race_settings.rivals)) if race_settings.rivals else 0
    return 5 + bool(settings.cold_starts) + contenders + race_settings.rounds * bool(contenders)


@dataclass(frozen=True)
class _InProcess:
    stages: Stages
    scenarios: tuple[Scenario, ...]
    energy: Energy | None
    camera: Camera | None
    growth: tuple[Growth, ...]


class _Bench:
    def __init__(
        self,
        bundle: Bundle,
        images: list[bytes],
        pictures: list[Picture],
        settings: Settings,
        race_settings: RaceSettings,
        note: Note,
    ) -> None:
        self._bundle, self._images, self._pictures = bundle, images, pictures
        self._settings, self._race_settings, self._note = settings, race_settings, note
        self._clock: Clock = WallClock()
        self._config = bundle.manifest.search.over(settings.fixed())
        self._codec = Codec.open(bundle)
        given = list(settings.input) if isinstance(settings.input, tuple) else settings.input
        self._question = self._ask(settings.task, given)
        self._together = [self._ask(task, None) for task in race_settings.tasks] if race_settings.rivals else []
        for rival in race_settings.rivals:
            find_kind(rival.kind)
            if not Path(rival.folder).expanduser().is_dir():
                raise InputError(
                    f"{rival.folder} is no folder; --rival {rival.kind}=FOLDER names one that holds weights"
                )

    def run(self, keep: Keep) -> Report:
        start = self._clock.now()
        with tempfile.TemporaryDirectory(prefix="florence-bench-") as scratch:
            alone = self._alone(Path(scratch))
            if not self._race_settings.rivals:
                return alone
            keep(alone)
            raced, after = self._race(Path(scratch)), look()
        left_out = (f"{failure.name} was left out of the race: {failure.reason}" for failure in raced.failures)
        return replace(
            alone,
            seconds=seconds(self._clock.now() - start),
            race=raced,
            after=after,
            warnings=(*warnings(alone.stages, alone.machine, alone.before, after), *left_out),
        )

    def _alone(self, scratch: Path) -> Report:
        """Everything but the race."""
        start, created = self._clock.now(), datetime.now(timezone.utc)
        machine, before = this_machine(), look()
        own = self._in_process()
        footprint = self._footprint(scratch)
        roof = self._roofline(own.stages, on_cpu=self._settings.providers is None and not machine.gpus)
        after = look()
        return Report(
            format=FORMAT,
            created=created.isoformat(timespec="seconds"),
            seconds=seconds(self._clock.now() - start),
            machine=machine,
            settings=self._settings,
            race_settings=_without_paths(self._race_settings),
            model=self._model(),
            images=tuple(self._pictures),
            stages=own.stages,
            footprint=footprint,
            scenarios=own.scenarios,
            camera=own.camera,
            energy=own.energy,
            roofline=roof,
            growth=own.growth,
            race=None,
            before=before,
            after=after,
            warnings=warnings(own.stages, machine, before, after),
        )

    def _in_process(self) -> _InProcess:
        """What is measured on a model in this very process."""
        settings = self._settings
        backend = open_backend(settings.backend, self._bundle, threads=settings.threads, providers=settings.providers)
        recorder = Recorder(backend)
        with Florence(self._bundle, recorder) as model:
            self._note("stages")
            stages = StageMeter(model, recorder, settings, self._clock).measure(self._images, backend)
            service = stages.total_ms.samples
            live = Live(model, self._images, settings, self._clock)
            self._note("scenarios")
            found, energy = live.scenarios(service)
            self._note("camera")
            camera = live.camera(service)
            self._note("growth")
            growth = grow(model, self._images[0], settings, self._clock)
        return _InProcess(stages, found, energy, camera, growth)

    def _footprint(self, scratch: Path) -> Footprint | None:
        """Fresh processes that answer one question each."""
        if not self._settings.cold_starts:
            return None
        self._note("cold start")
        entry = Entry(OURS, self._job(Rival(OURS, str(self._bundle.folder)), scratch), self._config.beams)
        times, replies = list[float](), list[Reply]()
        for _ in range(self._settings.cold_starts):
            spent, reply, worker = cold_start(entry, self._workloads(scratch)[0], self._race_settings.patience)
            worker.close()
            times.append(spent)
            replies.append(reply)
        return Footprint(
            cold_start_ms=Series.of(times),
            peak_resident_bytes=max(reply.peak_resident_bytes for reply in replies),
            device_bytes=max((reply.device_bytes or 0 for reply in replies), default=0) or None,
        )

    def _race(self, scratch: Path) -> Race:
        rivals = (Rival(OURS, str(self._bundle.folder)), *self._race_settings.rivals)
        entries = line_up(rivals, self._config.beams, lambda rival: self._job(rival, scratch))
        return race(
            entries,
            self._workloads(scratch),
            self._race_settings,
            cold_starts=self._settings.cold_starts,
            seed=self._settings.seed,
            note=self._note,
        )

    def _workloads(self, scratch: Path) -> list[Workload]:
        image = scratch / "image"
        image.write_bytes(self._images[0])
        return make_workloads(image, self._question, self._together, self._settings.tokens, self._config)

    def _job(self, rival: Rival, scratch: Path) -> Job:
        manifest, settings = self._bundle.manifest, self._settings
        graphs = manifest.graphs
        features = graphs.vision.outputs[0].shape
        return Job(
            kind=rival.kind,
            folder=str(Path(rival.folder).expanduser().resolve()),
            image=manifest.image,
            image_tokens=int(features[1]),
            vocabulary=int(graphs.decoder.outputs[0].shape[-1]),
            unused=tuple(manifest.model.get("text", {}).get("unused_tokens", ())),
            threads=settings.threads,
            backend=settings.backend,
            providers=settings.providers,
            scratch=str(scratch),
        )

    def _ask(self, task: str, given: str | list[str] | None) -> Question:
        """A question as the rivals need it: with its token ids."""
        row, picture = find(task, with_input=given is not None), self._pictures[0]
        asked = self._codec.question(row, given, ImageSize(picture.width, picture.height))
        return Question(row.token, tuple(given) if isinstance(given, list) else given, tuple(asked.ids.tolist()))

    def _roofline(self, stages: Stages, *, on_cpu: bool) -> Roofline | None:
        work = stage_work(
            self._bundle.manifest,
            prompt_tokens=len(self._question.prompt_ids),
            new_tokens=self._settings.tokens,
            beams=self._config.beams,
        )
        if work is None:
            return None
        self._note("ceilings of the machine")
        medians = {name: stages.stages[name].summary.median for name in ("vision", "encoder")}
        return roofline(work, {**medians, "step": stages.per_token_ms.summary.median}, self._clock, on_cpu=on_cpu)

    def _model(self) -> Model:
        manifest = self._bundle.manifest
        return Model(
            name=manifest.source.name,
            identity=identity(self._bundle),
            precision=manifest.precision,
            bytes=sum(record.bytes for record in manifest.files.values()),
            height=manifest.image.height,
            width=manifest.image.width,
            search=manifest.search,
            engine=self._settings.backend,
        )


def _without_paths(settings: RaceSettings) -> RaceSettings:
    """The settings with the names of folders only: where they lie on this machine is nobody's business."""
    rivals = tuple(replace(rival, folder=Path(rival.folder).name) for rival in settings.rivals)
    return replace(settings, rivals=rivals)
