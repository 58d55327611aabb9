"""Mutants of the attention shaders and of what they include that compute the same, by file and description: why."""

OF_NOTHING = "the added turn is of no keys, or of no splits, and adds nothing"
EQUIVALENT = {
    "attention.metal: for (uint run = begin + 32 * simdgroup; run < end; run += 32 * SIMDGROUPS) {  ->  "
    "for (uint run = begin + 32 * simdgroup; run < (end + 1); run += 32 * SIMDGROUPS) {": OF_NOTHING,
    "attention_combine.metal: for (uint first = 0; first < splits; first += 32) {  ->  "
    "for (uint first = 0; first < (splits + 1); first += 32) {": OF_NOTHING,
}
