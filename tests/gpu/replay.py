"""Runs recorded dispatches on the GPU and compares them with the emulator. Needs numpy and the driver.

Every buffer is an allocation of its own, so that a sanitizer sees its ends, and outputs start as poison. Run as
``python -m tests.gpu.replay FOLDER`` under compute-sanitizer.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.gpu.bench import float32, load
from tests.gpu.driver import Gpu, Launch

POISON = 0xAA
FILE, ARRAYS = "replay.json", "replay.npz"


def replayed(
    gpu: Gpu, folder: Path, records: Sequence[Mapping[str, Any]], kept: Mapping[str, np.ndarray], *, times: int = 2
) -> list[dict[str, Any]]:
    """Return a line for each record: the largest error of its outputs as a part of what is allowed, and whether they
    had the same bits each of ``times``."""
    lines = []
    for record in records:
        launch, places = _placed(gpu, folder, record, kept)
        bits: list[list[np.ndarray]] = []
        for _ in range(times):
            for output in record["outputs"]:
                want = kept[output["emulated"]]
                gpu.put(np.full(want.nbytes, POISON, np.uint8), places[output["name"]])
            gpu.launch(launch)
            wanted = [kept[output["emulated"]] for output in record["outputs"]]
            names = [output["name"] for output in record["outputs"]]
            bits.append([gpu.get(places[n], w.shape, w.dtype) for n, w in zip(names, wanted, strict=True)])
        differences = {
            output["name"]: _difference(output, got, kept)
            for output, got in zip(record["outputs"], bits[0], strict=True)
        }
        lines.append(
            {
                "what": record["what"],
                "shader": record["shader"],
                "same_bits": all(
                    np.array_equal(a, b) for others in bits[1:] for a, b in zip(bits[0], others, strict=True)
                ),
                "differences": differences,
                "right": all(
                    found <= output["allowed"]
                    for found, output in zip(differences.values(), record["outputs"], strict=True)
                ),
            }
        )
        gpu.free()
    return lines


def _placed(
    gpu: Gpu, folder: Path, record: Mapping[str, Any], kept: Mapping[str, np.ndarray]
) -> tuple[Launch, dict[str, int]]:
    places = {output["name"]: gpu.room(kept[output["emulated"]].nbytes) for output in record["outputs"]}
    arguments = []
    for argument in record["launch"]["arguments"]:
        if "data" in argument:
            arguments.append(gpu.put(np.array(argument["data"], np.int32)))
        elif argument["array"] in places:
            arguments.append(places[argument["array"]])
        else:
            arguments.append(gpu.put(kept[argument["array"]]))
    kernel = gpu.kernel(folder / f"{record['launch']['cubin']}.cubin")
    blocks, threads = (tuple(record["launch"][name]) for name in ("blocks", "threads"))
    return Launch(kernel, blocks, threads, tuple(arguments)), places  # type: ignore[arg-type]


def _difference(output: Mapping[str, Any], got: np.ndarray, kept: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference of what is written, as a part of the largest value."""
    want = kept[output["emulated"]]
    if "written" in output:
        written = kept[output["written"]]
        got, want = got[written], want[written]
    a, b = ((float32(x) if output["dtype"] == "bfloat16" else x).astype(np.float64) for x in (got, want))
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    finite = np.isfinite(b)
    if not finite.any():
        return 0.0
    return float(np.abs(a - b)[finite].max() / max(np.abs(b)[finite].max(), 1e-30))


def main() -> None:
    folder = Path(sys.argv[1])
    with np.load(folder / ARRAYS) as kept:
        lines = replayed(Gpu(), folder, load(folder / FILE), dict(kept), times=1)
    wrong = [line["what"] for line in lines if not line["right"]]
    print(f"replayed {len(lines)}, wrong {len(wrong)}: {', '.join(wrong)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
