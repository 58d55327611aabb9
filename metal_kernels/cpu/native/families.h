// The families of operations, in the order in which they build on each other.
#include "vector.h"
#include "products.h"
#include "dense.h"
#include "experts.h"
#include "attention.h"
