// What Python hands over: plain structs of pointers, in the order of their twins in library.py.
#pragma once

enum Format : int64_t { FLOAT32 = 0, BFLOAT16 = 1, Q8 = 2, MXFP4 = 3 };

// A matrix [rows, columns]; of experts [slots, rows, columns]. In 8 bits a value is code * scale + offset in groups of 64,
// in MXFP4 a 4-bit float times a power of two in groups of 32. `wide` scales and offsets are float32, others bfloat16.
struct Matrix {
    const void* weight;
    const void* scales;
    const void* offsets;
    const float* bias;  // [rows], of experts [slots, rows], or null
    int64_t rows, columns;
    Format format;
    int64_t wide;
};

// The experts' choice: raw logits [T, experts], of which each row takes the k largest, and the slot of each expert, or
// -1 for one that is absent, which adds nothing.
struct Routing {
    const float* logits;
    const int32_t* slots;
    int64_t T, experts, k;
};

// One layer's cache of one sequence: body and tail [2, 1, M, capacity, D] float32, keys then values.
struct Cache {
    const float* body;
    float* tail;
    int64_t body_capacity, tail_capacity, body_rows, tail_rows;
};

// Attention's sizes: N query heads, M key heads, D each, and the window in positions, or 0 for none.
struct Heads {
    const float* sinks;
    int64_t N, M, D, window;
    float scale;
};
