#!/bin/sh
# The run time and the kernels' CPU twins on aarch64, in QEMU's user emulation: right or wrong, never how fast.
# On Debian or Ubuntu, once, as root:
#   dpkg --add-architecture arm64 && apt-get update && apt-get install qemu-user-static g++-aarch64-linux-gnu
# Python and its libraries are Debian's, unpacked beside the build; wheels are those that a Jetson would install.
# $1 is the development environment's Python, which makes the bundle that the tests are handed.
set -eu

work=$PWD/build/aarch64
root=$work/root
python=$(apt-cache depends python3:arm64 | sed -n 's/.*Depends: \(python3\.[0-9]*\).*/\1/p' | head -n 1)
[ -n "$python" ] || { echo "apt knows no python3 for arm64; see the head of $0" >&2; exit 1; }
version=${python#python}

if [ ! -x "$root/usr/bin/$python" ]; then
  rm -rf "$work/debs" && mkdir -p "$work/debs" "$root/proc"
  packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances "$python:arm64" libstdc++6:arm64 | grep -E '^[a-z0-9.+-]+(:arm64)?$' | sort -u)
  for package in $packages; do
    (cd "$work/debs" && apt-get -qq download "${package%:arm64}:arm64" 2>/dev/null) || true  # virtual ones have no file
  done
  for file in "$work"/debs/*_arm64.deb; do dpkg -x "$file" "$root"; done
fi
# ONNX Runtime asks /proc/cpuinfo what it runs on; the host's would be an x86's. This is a Cortex-A72.
for processor in 0 1; do
  printf 'processor\t: %d\nFeatures\t: fp asimd crc32\nCPU implementer\t: 0x41\nCPU architecture: 8\n' "$processor"
  printf 'CPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n'
done >"$root/proc/cpuinfo"

"$1" -m pip install --quiet --disable-pip-version-check --upgrade -c constraints.txt --target "$work/site" \
  --only-binary=:all: --python-version "$version" \
  --platform manylinux_2_17_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 \
  numpy pillow tokenizers rich onnxruntime opencv-python-headless pytest pytest-timeout hypothesis

rm -rf "$work/bundle"
PYTHONPATH=sdk:training:converters:tests "$1" -c \
  'import sys; from support.bundles import make_tiny_bundle; make_tiny_bundle(sys.argv[1])' "$work/bundle"
export FLORENCE_TEST_BUNDLE="$work/bundle"

emulated() {
  qemu-aarch64-static -cpu cortex-a72 -L "$root" -E PYTHONPATH="$work/site:sdk" -E PYTHONDONTWRITEBYTECODE=1 "$@"
}
emulated "$root/usr/bin/$python" -c 'import sys; from florence_edge.cli.main import main; sys.exit(main(["demo", "build/aarch64/demo"]))'
# Without binfmt_misc the emulated Python cannot start another one.
emulated "$root/usr/bin/$python" -m pytest --deselect tests/sdk/test_backend_onnx.py::test_importing_the_backend_imports_no_runtime \
  -p no:cacheprovider tests/sdk/test_backend_onnx.py tests/sdk/test_florence*.py tests/sdk/test_grammar_answers.py \
  tests/sdk/test_grammar_prompts.py tests/sdk/test_locations.py tests/sdk/test_tokens.py

cmake -S . -B "$work/native" -DCMAKE_BUILD_TYPE=Release -DFLORENCE_CUDA=OFF -DCMAKE_SYSTEM_NAME=Linux \
  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  "-DCMAKE_CROSSCOMPILING_EMULATOR=$(command -v qemu-aarch64-static);-L;$root"
cmake --build "$work/native" --parallel
ctest --test-dir "$work/native" --output-on-failure
