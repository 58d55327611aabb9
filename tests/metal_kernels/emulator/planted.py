"""Kernels with one defect each. In a right kernel some text is replaced by wrong text."""

from dataclasses import dataclass

from metal_kernels.emulator import FindingKind


@dataclass(frozen=True)
class Planted:
    """A defect, the class of the finding, and its line: the one that holds ``at``, by default ``wrong``."""

    name: str
    kind: FindingKind
    right: str
    wrong: str
    at: str = ""
    other: str = ""  # for a race: text in the line of the other access
    body: str = ""
    header: str = ""
    in_header: bool = False
    in_memory: bool = False  # indexes a private array by a variable, which the lint would report first

    def sources(self, wrong: bool) -> tuple[str, str]:
        """Return the wrong kernel's body and header."""
        text = self.header if self.in_header else self.body
        assert text.count(self.right) == 1, self.right
        text = text.replace(self.right, self.wrong) if wrong else text
        return (self.body, text) if self.in_header else (text, self.header)

    def line(self, text: str) -> int:
        """Return the line of the wrong source that holds a text."""
        source = self.sources(wrong=True)[self.in_header]
        assert source.count(text) == 1, text
        return source[: source.index(text)].count("\n") + 1


ROW_SUM = """\
threadgroup float part[8];
uint n = uint(inp_shape[1]), row = threadgroup_position_in_grid.x, lid = thread_position_in_threadgroup.x;
uint sg = simdgroup_index_in_threadgroup, lane = thread_index_in_simdgroup;
float acc = 0;
for (uint i = lid; i < n; i += 256)
  acc += inp[row * n + i];
acc = simd_sum(acc);
if (lane == 0)
  part[sg] = acc;
threadgroup_barrier(mem_flags::mem_threadgroup);
if (sg == 0) {
  acc = lane < 8 ? part[lane] : 0.0f;
  acc = simd_sum(acc);
  if (lane == 0)
    out[row] = acc;
}
"""
"""Sums rows of inp [4, 1000] float32 into out [4], 256 threads a row."""

BARRIER = "threadgroup_barrier(mem_flags::mem_threadgroup);"
READ = "part[lane] :"
WRITE = "part[sg] = acc;"
INITIAL = "float acc = 0;"

TREE_SUM = """\
threadgroup float s[256];
uint n = uint(inp_shape[1]), row = threadgroup_position_in_grid.x, lid = thread_index_in_threadgroup;
float acc = 0;
for (uint i = lid; i < n; i += 256)
  acc += inp[row * n + i];
s[lid] = acc;
threadgroup_barrier(mem_flags::mem_threadgroup);
for (uint d = 128; d > 0; d /= 2) {
  float other = lid < d ? s[lid + d] : 0.0f;
  if (lid < d)
    s[lid] += other;
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
if (lid == 0)
  out[row] = s[0];
"""
"""The same sum by a tree in threadgroup memory: many barriers, and all threads write and read."""


HELPERS = """\
uint row = threadgroup_position_in_grid.x, lane = thread_index_in_simdgroup;
const device float4* vectors = (const device float4*)inp;
float acc[4];
for (int k = 0; k < 4; k++)
  acc[k] = 0.0f;
for (uint i = lane; i < 250; i += 32) {
  float4 v = vectors[row * 250 + i];
  for (int k = 0; k < 4; k++)
    acc[k] += v[k];
}
float total = add_up(acc);
total = simd_sum(total);
if (thread_index_in_threadgroup == 0)
  out[row] = scale(total, 8u);
"""
"""One simdgroup of each threadgroup does the work, through helpers and private arrays."""

HELPERS_HEADER = """\
METAL_FUNC float add_up(const thread float* v) {
  float sum = 0;
  for (int k = 0; k < 4; k++)
    sum += v[k];
  return sum;
}
METAL_FUNC float scale(float value, uint shift) {
  if (shift > 31)
    return 0.0f;
  return value * float(1u << shift) / 256.0f;
}
"""


def in_sum(name: str, kind: FindingKind, right: str, wrong: str, at: str = "", other: str = "") -> Planted:
    return Planted(name, kind, right, wrong, at, other, ROW_SUM)


def in_tree(name: str, kind: FindingKind, right: str, wrong: str, at: str = "", other: str = "") -> Planted:
    return Planted(name, kind, right, wrong, at, other, TREE_SUM)


def in_helpers(name: str, kind: FindingKind, right: str, wrong: str, at: str = "", in_memory: bool = False) -> Planted:
    return Planted(name, kind, right, wrong, at, "", HELPERS, HELPERS_HEADER, in_memory=in_memory)


def in_header(name: str, kind: FindingKind, right: str, wrong: str, at: str = "") -> Planted:
    return Planted(name, kind, right, wrong, at, "", HELPERS, HELPERS_HEADER, in_header=True)


PLANTED = [
    in_sum("no barrier", FindingKind.RACE, BARRIER, "", READ, WRITE),
    in_sum(
        "simdgroup barrier too small",
        FindingKind.RACE,
        BARRIER,
        BARRIER.replace("threadgroup_b", "simdgroup_b"),
        READ,
        WRITE,
    ),
    in_sum(
        "barrier that fences nothing",
        FindingKind.RACE,
        BARRIER,
        "threadgroup_barrier(mem_flags::mem_none);",
        READ,
        WRITE,
    ),
    in_sum(
        "barrier that fences device",
        FindingKind.RACE,
        BARRIER,
        "threadgroup_barrier(mem_flags::mem_device);",
        READ,
        WRITE,
    ),
    in_sum("every lane writes", FindingKind.RACE, "if (lane == 0)\n  part[sg]", "part[sg]", "part[sg]", "part[sg]"),
    in_sum("threadgroups write one element", FindingKind.RACE, "out[row] = acc", "out[0] = acc", other="out[0] = acc"),
    in_sum(
        "lanes write one output",
        FindingKind.RACE,
        "  if (lane == 0)\n    out[row]",
        "    out[row]",
        "out[row]",
        "out[row]",
    ),
    in_tree(
        "no barrier in the loop",
        FindingKind.RACE,
        "  threadgroup_barrier(mem_flags::mem_threadgroup);\n}",
        "}",
        "s[lid] += other;",
    ),
    in_tree(
        "write after read", FindingKind.RACE, "lid < d ? s[lid + d]", "lid < d ? s[lid + d / 2]", "s[lid] += other;"
    ),
    in_tree(
        "simd operations fence nothing",
        FindingKind.RACE,
        BARRIER + "\nfor",
        "acc = simd_sum(acc);\nfor",
        "float other =",
    ),
    in_sum(
        "reads beyond what was written",
        FindingKind.UNINITIALISED,
        "if (lane == 0)\n  part",
        "if (lane == 0 && sg > 0)\n  part",
        READ,
    ),
    in_tree(
        "array only half written",
        FindingKind.UNINITIALISED,
        "s[lid] = acc;",
        "if (lid < 128) s[lid] = acc;",
        "float other =",
    ),
    in_sum("output read before written", FindingKind.UNINITIALISED, "out[row] = acc", "out[row] += acc"),
    in_sum("private variable not set", FindingKind.LINT, INITIAL, "float acc;", "acc += inp"),
    in_sum(
        "private variable set on one branch",
        FindingKind.LINT,
        INITIAL,
        "float acc; if (lid < 99) acc = 0;",
        "acc += inp",
    ),
    in_helpers("private array not set", FindingKind.UNINITIALISED, "acc[k] = 0.0f", "acc[k] += 0.0f", "out[row]"),
    in_helpers(
        "private array partly set",
        FindingKind.UNINITIALISED,
        "k < 4; k++)\n  acc[k] = 0.0f",
        "k < 3; k++)\n  acc[k] = 0.0f",
        "out[row]",
    ),
    *(
        in_helpers(
            f"private {type_} array not set",
            FindingKind.UNINITIALISED,
            "if (thread_index",
            f"{type_} more[2]; more[row & 1] = {type_}(1); total += float(more[1]);\nif (thread_index",
            "out[row]",
            in_memory=True,
        )
        for type_ in ("half", "bfloat")
    ),
    in_helpers(
        "private int array not set as an index",
        FindingKind.OUT_OF_BOUNDS,
        "if (thread_index",
        "uint more[2]; more[row & 1] = 1; total += inp[more[1]];\nif (thread_index",
        "inp[more[1]]",
        in_memory=True,
    ),
    in_sum("output not written", FindingKind.UNWRITTEN, "lane == 0)\n    out", "lane == 0 && row > 0)\n    out"),
    in_sum("threadgroup array too short", FindingKind.OUT_OF_BOUNDS, "part[8]", "part[7]", WRITE),
    in_sum("reads past the input", FindingKind.OUT_OF_BOUNDS, "i < n; i += 256", "i < 1024; i += 256", "acc += inp"),
    in_sum("reads before the input", FindingKind.OUT_OF_BOUNDS, "inp[row * n + i]", "inp[int(row * n + i) - 1]"),
    in_sum("writes past the output", FindingKind.OUT_OF_BOUNDS, "out[row] = acc", "out[row + 1] = acc"),
    in_sum("writes an input", FindingKind.OUT_OF_BOUNDS, "out[row] = acc", "((device float*)inp)[row] = acc"),
    in_helpers("private array too short", FindingKind.OUT_OF_BOUNDS, "float acc[4]", "float acc[3]", "acc[k] = 0.0f"),
    in_helpers(
        "array of one at a struct's end too short",
        FindingKind.OUT_OF_BOUNDS,
        "if (thread_index",
        "struct { float of[1]; } last;\nfor (int k = 0; k < 2; k++) last.of[k] = total;\n"
        "total = last.of[0];\nif (thread_index",
        "last.of[k] = total",
    ),
    in_helpers("vector component past the end", FindingKind.OUT_OF_BOUNDS, "acc[k] += v[k]", "acc[k] += v[k + 1]"),
    in_sum(
        "simd operation in a branch",
        FindingKind.DIVERGENCE,
        "acc = simd_sum(acc);\nif",
        "if (lane < 16) acc = simd_sum(acc);\nif",
        "lane < 16",
    ),
    in_sum(
        "both sides of a branch",
        FindingKind.DIVERGENCE,
        "acc = simd_sum(acc);\nif",
        "acc = lane < 16 ? simd_sum(acc) : simd_sum(acc + 1.0f);\nif",
        "lane < 16",
    ),
    in_sum("barrier in a branch", FindingKind.DIVERGENCE, BARRIER, f"if (lid < 128) {BARRIER}"),
    in_sum("return before a barrier", FindingKind.DIVERGENCE, BARRIER, f"if (sg == 7) return;\n{BARRIER}", BARRIER),
    in_sum(
        "loop of uneven length",
        FindingKind.DIVERGENCE,
        "  acc += inp[row * n + i];",
        "  acc += simd_sum(inp[row * n + i]) / 32.0f;",
    ),
    in_sum(
        "shuffle from a lane past 31",
        FindingKind.DIVERGENCE,
        BARRIER,
        f"acc += 0 * simd_shuffle(acc, ushort(lane + 16));\n{BARRIER}",
        "simd_shuffle",
    ),
    in_sum(
        "shuffle from a lane that returned",
        FindingKind.DIVERGENCE,
        "if (sg == 0) {",
        "if (sg == 0) {\n  if (lane > 30) return;\n  acc += 0 * simd_shuffle(acc, 31);",
        "simd_shuffle",
    ),
    in_helpers(
        "shift past the width",
        FindingKind.UNDEFINED,
        "if (thread_index",
        "total += float(1u << (row + 30));\nif (thread_index",
        "row + 30",
    ),
    in_header(
        "shift past the width in a helper", FindingKind.UNDEFINED, "1u << shift", "1u << (shift * 4)", "shift * 4"
    ),
    in_helpers(
        "misaligned vector", FindingKind.UNDEFINED, "vectors[row * 250 + i]", "*(const device float4*)(inp + 1)"
    ),
    in_sum("division by zero", FindingKind.UNDEFINED, "out[row] = acc", "out[row] = acc + float(1 / int(row))"),
    in_sum(
        "float that fits no integer",
        FindingKind.UNDEFINED,
        "out[row] = acc",
        "out[row] = acc + float(int(acc * 1e30f))",
    ),
    in_sum("signed overflow", FindingKind.UNDEFINED, "out[row] = acc", "out[row] = acc + float(int(n) * 2147484)"),
    in_sum("too much threadgroup memory", FindingKind.LIMIT, "part[8]", "part[9000]"),
    in_sum("bfloat from float", FindingKind.LINT, INITIAL, "float acc = 0; bfloat b; b = acc * 2.0f;", "bfloat b;"),
    in_sum("no double", FindingKind.LINT, INITIAL, "double acc = 0;"),
    in_helpers(
        "pointer to the wrong space",
        FindingKind.LINT,
        "const device float4* vectors = (const device float4*)inp",
        "const device float4* vectors = (const threadgroup float4*)inp",
    ),
    in_helpers(
        "private array indexed by a variable",
        FindingKind.LINT,
        "acc[k] += v[k];",
        "acc[(k + lane) % 4] += v[k];",
        "acc[4];",
    ),
    in_helpers(
        "address of an element chosen",
        FindingKind.LINT,
        "float total = add_up(acc);",
        "float total = add_up(acc); total += lane > 3 ? acc[0] : acc[1];",
        "float total",
    ),
    in_helpers("pointer without a space", FindingKind.LINT, "const device float4* vectors", "const float4* vectors"),
    in_header("parameter without a space", FindingKind.LINT, "const thread float* v", "const float* v"),
    in_header("function without its result", FindingKind.LINT, "  return sum;\n}", "}", "}\nMETAL_FUNC float scale"),
    in_sum(
        "two threadgroup variables at once",
        FindingKind.LINT,
        "threadgroup float part[8];",
        "threadgroup float part[8], more[8];",
    ),
    in_helpers(
        "struct copied out of device memory",
        FindingKind.LINT,
        "if (thread_index",
        "struct Pair { float a, b; };\nPair pair = ((const device Pair*)inp)[row];\nif (thread_index",
        "Pair pair =",
    ),
    in_sum("unknown name", FindingKind.LINT, "simd_sum(acc);\nif", "simd_total(acc);\nif", "simd_total"),
    in_sum(
        "unknown component", FindingKind.LINT, "thread_position_in_threadgroup.x;", "thread_position_in_threadgroup.w;"
    ),
    in_sum("const input assigned", FindingKind.LINT, "out[row] = acc", "inp[row] = acc"),
]
