"""What a run found, in words, and whether it reaches its goals. Knows no GPU."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

RATIO_SHARE, RATIO_FLOOR = 0.8, 0.8
"""At least this share of the ratios has to hold, and none may be below the other."""
STEP_SHARE = 0.45
"""Of a plain read of the same bytes, that a step's launches reach as one graph."""
LARGE_PEAK = 80e9
"""Bytes that a model of 120b's layout may take at most."""
Found = Mapping[str, Any]


class Line(NamedTuple):
    """A scene: microseconds of ours and of the fastest of MLX's kernels, the part of a plain read that ours reaches,
    and the goals of ratio and part, None where there is none."""

    scene: str
    ours: float
    mlx: float
    share: float
    registers: int
    local_bytes: int
    right: bool
    ratio_goal: float | None
    share_goal: float | None

    @property
    def ratio(self) -> float:
        """How many times as fast as MLX's ours is."""
        return self.mlx / self.ours


def ratio_goal(scene: str) -> float | None:
    """Return how many times as fast as MLX's kernel a scene has to be."""
    expert = scene.startswith("expert_")
    if scene.endswith("/4"):
        return 3.3 if expert else 1.0
    if expert:
        return 3.0
    if scene.startswith(("norm_qkv_rope", "output_residual")):
        return 1.8 if " q8/" in scene else None
    if scene.startswith("norm_head") or "window" in scene or " 1024 keys" in scene:
        return 1.0
    return 1.3 if " 131072 keys" in scene else None


def share_goal(scene: str) -> float | None:
    """Return which part of a plain read a scene of one row has to reach."""
    if not scene.endswith("/1") or scene.startswith("decode_attention"):
        return None
    if scene.startswith("expert_"):
        return 0.7
    if scene.startswith("norm_head"):
        return 0.9
    return 0.5 if " q8/" in scene else 0.6


def lines(found: Found) -> list[Line]:
    """Return a line for each scene that was timed."""
    scenes: dict[str, dict[str, Any]] = {}
    for line in found["lines"]:
        if "failed" not in line:
            scenes.setdefault(line["scene"], {})[line["variant"]] = line
    reads = {int(nbytes): us for nbytes, us in found["reads"].items()}
    result = []
    for scene, variants in scenes.items():
        ours = variants["ours"]
        others = [line["us"] for variant, line in variants.items() if variant.startswith("mlx")]
        result.append(
            Line(
                scene,
                ours["us"],
                min(others, default=float("nan")),
                reads[ours["bytes"]] / ours["us"],
                ours["registers"],
                ours["local_bytes"],
                all(line["right"] for line in variants.values()),
                ratio_goal(scene),
                share_goal(scene),
            )
        )
    return result


def _scenes(found: Found) -> Iterator[str]:
    yield "| scene / rows | ours us | MLX us | ratio (goal) | of a plain read (goal) | registers, local bytes | right |"
    yield "|---|---|---|---|---|---|---|"
    for line in lines(found):
        goals = [f" ({goal})" if goal else "" for goal in (line.ratio_goal, line.share_goal)]
        yield (
            f"| {line.scene} | {line.ours:.1f} | {line.mlx:.1f} | {line.ratio:.2f}{goals[0]} | "
            f"{line.share:.0%}{goals[1]} | {line.registers}, {line.local_bytes} | {'yes' if line.right else 'NO'} |"
        )
    for failed in (line for line in found["lines"] if "failed" in line):
        yield f"| {failed['scene']} | FAILED: {failed['failed']} | | | | | |"
    yield ""
    yield f"An empty launch takes {found['empty']:.2f} us."
    held, of, lowest = ratios(found)
    yield f"Ratios: {held} of {of} goals hold, the lowest is {lowest:.2f} of its goal."


def ratios(found: Found) -> tuple[int, int, float]:
    """Return how many of the ratios hold, of how many, and the lowest as a part of its goal."""
    with_goal = [line for line in lines(found) if line.ratio_goal]
    parts = [line.ratio / line.ratio_goal for line in with_goal if line.ratio_goal]
    return sum(part >= 1 for part in parts), len(parts), min(parts, default=float("nan"))


def _of_mlx(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
        return
    yield f"{found.get('mlx', 'MLX')} on {found.get('device', 'no device')}, shaders: {found.get('shaders')}"
    if "failed" in found:
        yield f"not run, or not to its end: {found['failed']}"


def _steps(found: Any) -> Iterator[str]:
    yield from _of_mlx(found)
    rows = found.get("found", []) if isinstance(found, dict) else []
    if rows:
        yield ""
        yield "| dense | positions | batch | ours ms (host) | mlx-lm ms (host) | ratio | logits apart |"
        yield "|---|---|---|---|---|---|---|"
    for row in rows:
        ours, theirs = row.get("ours_ms"), row.get("mlx_lm_ms")
        cells = [row.get("ours_error", "") if ours is None else f"{ours:.2f} ({row['ours_host_ms']:.2f})"]
        cells.append(row.get("mlx_lm_error", "") if theirs is None else f"{theirs:.2f} ({row['mlx_lm_host_ms']:.2f})")
        cells.append(f"{theirs / ours:.2f}" if ours and theirs else "")
        cells.append(f"{row['apart']:.1e}" if "apart" in row else "")
        yield f"| {row['dense']} | {row['positions']} | {row['batch']} | " + " | ".join(cells) + " |"


def _replay(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
        return
    wrong = [f"{line['what']} {line['differences']}" for line in found if not line["right"]]
    other = [line["what"] for line in found if not line["same_bits"]]
    yield f"{len(found)} dispatches replayed, {len(wrong)} differ from the emulator, {len(other)} from themselves."
    yield from (f"- WRONG: {line}" for line in (*wrong, *other))


def _sanitizer(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
        return
    for tool, line in found.items():
        yield f"- {tool}: {'clean' if line['clean'] else 'NOT CLEAN'}: {line['said']}"


def _compare(found: Any) -> Iterator[str]:
    yield from _of_mlx(found)
    for line in found.get("found", []) if isinstance(found, dict) else []:
        verdict = "agrees" if line["right"] else "DISAGREES"
        yield f"- {line['what']}: {line['error']:.1e} of {line['allowed']:.0e}: {verdict}"


def _replies(found: Any) -> Iterator[str]:
    yield from _of_mlx(found)
    if isinstance(found, dict) and (line := found.get("found")):
        yield f"{line['right']} of {line['replies']} golden replies; shaders that ran: {', '.join(line['ran'])}"
        yield f"replaced by plain MLX: {', '.join(line['replaced']) or 'none'}"


def _graph_steps(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
        return
    for line in found:
        yield (
            f"- {line['step']}: {line['launches']} launches, {line['bytes'] / 1e9:.2f} GB in "
            f"{line['us'] / 1e3:.2f} ms, {line['share']:.0%} of a plain read ({line['read_us'] / 1e3:.2f} ms; "
            f"goal {STEP_SHARE:.0%})"
        )


def _large(found: Any) -> Iterator[str]:
    yield from _of_mlx(found)
    if isinstance(found, dict) and (line := found.get("found")):
        yield (
            f"{line['bytes'] / 1e9:.1f} GB drawn in {line['loaded_s']:.0f} s, {line['tokens']} tokens in "
            f"{line['decoding_s']:.1f} s, peak {line['peak'] / 1e9:.1f} GB, all finite: {line['finite']}"
        )


PARTS = {
    "replay": ("The shaders' checks, replayed", _replay),
    "sanitizer": ("compute-sanitizer", _sanitizer),
    "compare": ("Beside plain MLX at the published sizes", _compare),
    "replies": ("The bundled model", _replies),
    "scenes": ("Each shader beside MLX's kernels", lambda found: [found] if isinstance(found, str) else _scenes(found)),
    "graph_steps": ("A decode step's launches as one graph", _graph_steps),
    "steps_q8": ("A step through MLX beside mlx-lm, q8", _steps),
    "steps_bf16": ("A step through MLX beside mlx-lm, bf16", _steps),
    "large": ("36 layers, 128 experts, q8", _large),
}


def overheads(found: Found) -> Iterator[str]:
    """Yield how much longer a step takes through MLX than its launches as one graph, where both were timed."""
    graphs = found.get("graph_steps")
    for line in graphs if isinstance(graphs, list) else []:
        dense = "q8" if " q8," in line["step"] else "bf16"
        through = found.get(f"steps_{dense}")
        for row in through.get("found", []) if isinstance(through, dict) else []:
            if (row["positions"], row["batch"]) == (1024, 1) and "ours_ms" in row:
                graph = line["us"] / 1e3
                yield (
                    f"- {dense}, 1,024 positions: {row['ours_ms']:.2f} ms through MLX, {graph:.2f} as one graph: "
                    f"{row['ours_ms'] - graph:.2f} ms more; the host is busy for {row['ours_host_ms']:.2f}"
                )


def table(what: str, found: Found) -> str:
    """Return the text of a run."""
    machine = found["machine"]
    text = [
        f"# The shaders on an NVIDIA GPU: {what}",
        "",
        f"{machine['card']}, {machine['architecture']}, driver for CUDA {machine['driver']}. Not Apple's: what it says",
        "of speed carries over only where counts say so too.",
    ]
    for part, (title, words) in PARTS.items():
        if part in found:
            text += ["", f"## {title}", "", *words(found[part]), "", f"{found['seconds'].get(part, 0)} s"]
    if more := list(overheads(found)):
        text += ["", "## What MLX adds to a step", "", *more]
    return "\n".join(text) + "\n"


def passed(what: str, found: Found) -> bool:
    """Return whether all that was run reaches its goals. What this machine cannot run is not counted."""
    verdicts = {
        "replay": lambda f: all(line["right"] and line["same_bits"] for line in f),
        "sanitizer": lambda f: all(line["clean"] for line in f.values()),
        "compare": lambda f: "failed" not in f and all(line["right"] for line in f["found"]),
        "replies": lambda f: (
            "failed" not in f and f["found"]["right"] == f["found"]["replies"] and not f["found"]["replaced"]
        ),
        "scenes": lambda f: _scenes_pass(f),
        "graph_steps": lambda f: all(line["share"] >= STEP_SHARE for line in f),
        "large": lambda f: "failed" not in f and f["found"]["finite"] and f["found"]["peak"] < LARGE_PEAK,
    }
    given = {part: found[part] for part in verdicts if part in found}
    if any(isinstance(part, str) and part.startswith("failed") for part in found.values()):
        return False
    return all(verdicts[part](one) for part, one in given.items() if not isinstance(one, str))


def _scenes_pass(found: Found) -> bool:
    held, of, lowest = ratios(found)
    shares = all(line.share >= line.share_goal for line in lines(found) if line.share_goal)
    right = all(line.get("right", False) for line in found["lines"])
    return right and shares and held >= RATIO_SHARE * of and lowest >= RATIO_FLOOR
