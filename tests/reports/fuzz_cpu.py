"""Random calls of every operation of the native library, on each architecture that this machine has: ``make cpu-fuzz``.

They are compared with definitions in float64, and so is plain MLX, which shows that the definitions are right.
"""

import argparse
import sys
import time
from collections.abc import Callable

from tests.metal_kernels.cpu.trials import OPERATIONS, trial
from tests.metal_kernels.cpu.trials.common import Draw, Trial
from tests.support.native import architectures, spoil, using

PLAIN_MLX = "plain MLX"
LARGEST = (2e-6, 5e-6)
"""The largest error of the library, as a part of the largest value, and that of plain MLX, which is the less exact."""
THREADS = (1, 2, 3, 5)


def judged(operation: Callable[[Draw], Trial], number: int, seed: int) -> tuple[dict[str, float], list[str]]:
    """Return a trial's errors, by who made them, and what is wrong, in a line each."""
    one = trial(operation, number, seed)
    threads = THREADS[number % len(THREADS)]
    errors: dict[str, float] = {}
    wrong = []
    for by in (PLAIN_MLX, *architectures()):
        about = f"{operation.__name__} {number}, {by}, {threads} threads, {one.about}"
        try:
            if by == PLAIN_MLX:
                errors[by] = one.error(one.plain())
            else:
                with using(by, threads):
                    spoil()
                    errors[by] = one.error(one.native())
        except AssertionError as problem:  # of what is no matter of rounding
            wrong.append(f"{about}: {problem}")
        else:
            if not errors[by] <= LARGEST[by == PLAIN_MLX]:
                wrong.append(f"{about}: an error of {errors[by]:.1e}")
    return errors, wrong


def fuzz(count: int, seed: int) -> int:
    """Run ``count`` trials of each operation. Print the largest errors and all that is wrong, and return how much."""
    total = 0
    print(f"{'largest error':22}" + "".join(f"{by:>12}" for by in (PLAIN_MLX, *architectures())))
    for operation in OPERATIONS:
        largest = dict.fromkeys((PLAIN_MLX, *architectures()), 0.0)
        start = time.perf_counter()
        for number in range(count):
            errors, wrong = judged(operation, number, seed)
            largest |= {by: max(largest[by], error) for by, error in errors.items()}
            total += len(wrong)
            print("".join(f"{line}\n" for line in wrong), end="")
        row = "".join(f"{error:12.1e}" for error in largest.values())
        print(f"{operation.__name__:22}{row}{time.perf_counter() - start:8.0f} s", flush=True)
    print(f"native library: {count:,} calls of each of {len(OPERATIONS)} operations, seed {seed}: {total} wrong")
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if not architectures():
        sys.exit("there is no native library here: run `python -m metal_kernels.cpu.build` to see why")
    sys.exit(1 if fuzz(given.count, given.seed) else 0)
