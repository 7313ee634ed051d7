/* Tiles of Winograd's F(4x4, 3x3) to and fro (model/winograd.py), eight channels at a time and each value touched once.
   Compiled where it is used, called without Python's lock, one band of tiles a call: whoever calls shares bands between
   threads. Everything is float32 with channels last and a multiple of eight of them. */
#include <stdint.h>
#include <string.h>

typedef float Lanes __attribute__((vector_size(32)));
enum { LANES = 8, TILE = 4, WINDOW = 6, MAX_CHANNELS = 8192 };

static const float zeros[MAX_CHANNELS];

static inline Lanes load(const float *from) {
  Lanes lanes;
  memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

static inline void store(float *to, Lanes lanes) { memcpy(to, &lanes, sizeof lanes); }

/* The paper's transposed B: six inputs, `step` apart, to six values. */
static inline void spread_six(const Lanes *d, int step, Lanes *out) {
  Lanes d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
  Lanes even = d4 - 4 * d2, odd = d3 - 4 * d1, near = d4 - d2, far = 2 * (d3 - d1);
  out[0] = 4 * d0 - 5 * d2 + d4;
  out[1] = even + odd;
  out[2] = even - odd;
  out[3] = near + far;
  out[4] = near - far;
  out[5] = 4 * d1 - 5 * d3 + d5;
}

/* The paper's transposed A: six products, `step` apart, to four outputs. */
static inline void gather_four(const Lanes *m, int step, Lanes *out) {
  Lanes even = m[step] + m[2 * step], odd = m[step] - m[2 * step];
  Lanes far_even = m[3 * step] + m[4 * step], far_odd = m[3 * step] - m[4 * step];
  out[0] = m[0] + even + far_even;
  out[1] = odd + 2 * far_odd;
  out[2] = even + 4 * far_even;
  out[3] = odd + 8 * far_odd + m[5 * step];
}

/* One picture (height, width, channels) -> (36, rows * columns, channels), the 36 `stride` floats apart. */
void emmdit_spread(const float *picture, int64_t height, int64_t width, int64_t channels, int64_t first_row,
                   int64_t num_rows, int64_t num_columns, float *spread, int64_t stride) {
  for (int64_t row = 0; row < num_rows; row++)
    for (int64_t column = 0; column < num_columns; column++) {
      const float *inputs[WINDOW * WINDOW];
      for (int i = 0; i < WINDOW * WINDOW; i++) {
        int64_t y = TILE * (first_row + row) - 1 + i / WINDOW, x = TILE * column - 1 + i % WINDOW;
        int is_inside = 0 <= y && y < height && 0 <= x && x < width;
        inputs[i] = is_inside ? picture + (y * width + x) * channels : zeros;
      }
      float *place = spread + (row * num_columns + column) * channels;
      for (int64_t channel = 0; channel < channels; channel += LANES) {
        Lanes window[WINDOW * WINDOW], by_row[WINDOW * WINDOW], both[WINDOW];
        for (int i = 0; i < WINDOW * WINDOW; i++) window[i] = load(inputs[i] + channel);
        for (int y = 0; y < WINDOW; y++) spread_six(window + y * WINDOW, 1, by_row + y * WINDOW);
        for (int x = 0; x < WINDOW; x++) {
          spread_six(by_row + x, WINDOW, both);
          for (int y = 0; y < WINDOW; y++) store(place + (x * WINDOW + y) * stride + channel, both[y]);
        }
      }
    }
}

/* (36, rows * columns, channels), the 36 `stride` floats apart, -> one picture (height, width, channels). `bias` has a
   value for each channel. */
void emmdit_gather(const float *products, int64_t stride, const float *bias, int64_t height, int64_t width,
                   int64_t channels, int64_t first_row, int64_t num_rows, int64_t num_columns, float *picture) {
  for (int64_t row = 0; row < num_rows; row++)
    for (int64_t column = 0; column < num_columns; column++) {
      const float *place = products + (row * num_columns + column) * channels;
      int64_t top = TILE * (first_row + row), left = TILE * column;
      for (int64_t channel = 0; channel < channels; channel += LANES) {
        Lanes window[WINDOW], by_column[TILE * WINDOW], outputs[TILE], offset = load(bias + channel);
        for (int x = 0; x < WINDOW; x++) {
          for (int y = 0; y < WINDOW; y++) window[y] = load(place + (x * WINDOW + y) * stride + channel);
          gather_four(window, 1, outputs);
          for (int y = 0; y < TILE; y++) by_column[y * WINDOW + x] = outputs[y];
        }
        for (int y = 0; y < TILE && top + y < height; y++) {
          gather_four(by_column + y * WINDOW, 1, outputs);
          for (int x = 0; x < TILE && left + x < width; x++)
            store(picture + ((top + y) * width + left + x) * channels + channel, outputs[x] + offset);
        }
      }
    }
}
