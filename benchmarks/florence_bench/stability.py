"""What makes a measurement doubtful: the four warnings of `trtexec` in spirit, and what the board says.

`trtexec` warns when the host cannot feed the device, when copies take longer than computing, when times scatter and
when several streams share the device. Here the first three are asked of the stages, the last of the machine's other
load.
"""

from __future__ import annotations

from collections.abc import Iterator

from .machine import Machine
from .power.conditions import Conditions
from .stages import Stages

HOST_SHARE = 0.8
VARIATION = 0.025
BUSY = 0.5
"""Load by others, in processes per core, from which on they are felt."""


def warnings(stages: Stages, machine: Machine, before: Conditions, after: Conditions) -> tuple[str, ...]:
    """Everything a reader of the numbers should know before believing them."""
    return (*_of_stages(stages), *_of_machine(machine, before, after))


def _of_stages(stages: Stages) -> Iterator[str]:
    median = {name: series.summary.median for name, series in stages.stages.items()}
    engine = median["vision"] + median["encoder"] + median["decode"]
    host = stages.total_ms.summary.median - engine
    if host > HOST_SHARE * engine:
        yield (
            f"bound by the host: reading, preprocessing and parsing take {host:.1f} ms, the engine {engine:.1f} ms; "
            "a faster engine would hardly help"
        )
    if median["load"] >= median["vision"]:
        yield (
            f"bound by the input: decoding the image takes {median['load']:.1f} ms, the vision tower "
            f"{median['vision']:.1f} ms; hand over decoded arrays, or smaller pictures"
        )
    negative = sum(spent < 0 for spent in stages.stages["decode"].samples)
    if negative:
        yield (
            f"too noisy to tell encoder and decoder apart: in {negative} of {stages.total_ms.summary.count} runs the "
            "encoder alone took longer than the whole search did"
        )
    variation = stages.total_ms.summary.variation
    if variation > VARIATION:
        yield (
            f"unstable: the standard deviation is {variation:.1%} of the mean (over {VARIATION:.1%}); lock the clocks "
            "(jetson_clocks, cpupower, nvidia-smi -lgc), stop other programs, measure for longer"
        )


def _of_machine(machine: Machine, before: Conditions, after: Conditions) -> Iterator[str]:
    if before.load is not None and before.load > BUSY * machine.cores:
        yield (
            f"shared: the load average was {before.load:.1f} on {machine.cores} cores before anything was measured; "
            "other programs take part of every time"
        )
    events = after.throttle_events - before.throttle_events
    if events > 0:
        yield f"throttled: {events} thermal or over-current events during the run"
    if after.throttling:
        yield f"throttled at the end of the run: {', '.join(after.throttling)}"
    if before.power_mode != after.power_mode:
        yield f"the power mode changed from {before.power_mode} to {after.power_mode} during the run"
