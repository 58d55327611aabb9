"""Mutants of the shaders of decode attention that compute the same: description to reason."""

OF_NOTHING = "the extra turn has no keys, or no splits, and adds nothing"
EQUIVALENT = {
    "decode_attention.metal: "
    "for (uint run = begin + 32 * (simdgroup % SIMDGROUPS); run < end; run += 32 * SIMDGROUPS) {  ->  "
    "for (uint run = begin + 32 * (simdgroup % SIMDGROUPS); run < (end + 1); run += 32 * SIMDGROUPS) {": OF_NOTHING,
    "decode_attention_combine.metal: for (uint first = 0; first < splits; first += 32) {  ->  "
    "for (uint first = 0; first < (splits + 1); first += 32) {": OF_NOTHING,
}
