/* As many float32 at once as a register of this CPU holds, as GCC and Clang know them; 16 or a part of that. */

#include <stdint.h>
#include <string.h>

#define LINE 16 /* float32 of a line of the cache */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
/* Of a block: its sums, a line of it and a factor fit into the registers, of which there are 32, or 16. */
#define ROWS 6
#if defined(__AVX512F__) || defined(__aarch64__)
#define COLUMNS 4
#else
#define COLUMNS 2
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t Whole __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE Lanes load(const float *at) { return *(const Loose *)at; }

INLINE void store(float *at, Lanes lanes) { *(Loose *)at = lanes; }

INLINE Lanes larger(Lanes a, Lanes b)
{
    Whole is_a = a > b;
    return (Lanes)(((Whole)a & is_a) | ((Whole)b & ~is_a));
}

/* e^x, x from -87 to 87 and clipped to that: 2^n e^r, |r| <= ln 2 / 2, with the polynomial of Cephes' expf. */
INLINE Lanes exponential(Lanes x)
{
    x = -larger(-larger(x, (Lanes){} - 87.0f), (Lanes){} - 87.0f);
    Lanes n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* to the next whole number */
    Lanes r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Lanes p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return (Lanes)((Whole)p + (__builtin_convertvector(n, Whole) << 23));
}

INLINE float sum_of(Lanes x)
{
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
}

INLINE float largest_of(Lanes x)
{
    float most = x[0];
    for (int lane = 1; lane < LANES; lane++) most = x[lane] > most ? x[lane] : most;
    return most;
}

/* out[r][c] (+)= sum over k of a[r][k] b[k][c]: ROWS rows, `columns` times LANES columns, all sums in registers.
 * Rows of a are a_row apart, of b b_row. What lies `ahead`, a line each k, is on its way to the cache meanwhile. */
INLINE void block(int adds, int columns, float *const out[ROWS], long count, const float *a, long a_row,
                  const float *b, long b_row, const float *ahead)
{
    Lanes sum[ROWS][COLUMNS], line[COLUMNS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) sum[r][c] = adds ? load(out[r] + LANES * c) : (Lanes){};
    for (long k = 0; k < count; k++) {
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) line[c] = load(b + k * b_row + LANES * c);
        if (ahead) __builtin_prefetch(ahead + LINE * k, 0, 2);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
            for (int c = 0; c < columns; c++) sum[r][c] += a[r * a_row + k] * line[c];
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) store(out[r] + LANES * c, sum[r][c]);
}

/* Blocks side by side, until `width` columns, a multiple of LANES, are there. */
INLINE void multiply(int adds, long width, float *const out[ROWS], long count, const float *a, long a_row,
                     const float *b, long b_row, const float *ahead)
{
    for (long from = 0; from < width;) {
        float *here[ROWS];
        for (int r = 0; r < ROWS; r++) here[r] = out[r] + from;
        long left = (width - from) / LANES;
        int columns = left < COLUMNS ? left : COLUMNS;
        switch (columns) {
#if COLUMNS > 2
        case 4: block(adds, 4, here, count, a, a_row, b + from, b_row, ahead); break;
        case 3: block(adds, 3, here, count, a, a_row, b + from, b_row, ahead); break;
#endif
        case 2: block(adds, 2, here, count, a, a_row, b + from, b_row, ahead); break;
        default: block(adds, 1, here, count, a, a_row, b + from, b_row, ahead);
        }
        from += columns * LANES;
    }
}
