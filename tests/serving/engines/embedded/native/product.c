/* A product by itself, for test_product.py. */
#include "matrix.h"

void product(const Matrix *matrix, const Rows *rows, int64_t count, const Target *target,
             int threads, bf16 *unpacked) {
    multiply(matrix, rows, count, target, threads, unpacked);
}

int64_t matrix_bytes(void) { return sizeof(Matrix); }
