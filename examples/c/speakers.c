/* speakers.c: which of nine speakers says a vowel? The model examples/speakers.keras, exported as C, on the recordings of
 * speakers.npz.
 *
 * `make example-c` exports the model (speakers.h), writes the recordings as raw numbers (speakers_data.py), builds and runs
 * this.
 *   speakers RECORDINGS [PREDICTIONS]
 * RECORDINGS: a 32-bit count, then for each recording 29 x 12 floats and its speaker as a 32-bit number, as this machine has
 * them in memory. PREDICTIONS: where to write the 9 probabilities of each recording.
 */
#define FASTLSTM_IMPLEMENTATION
#define FASTLSTM_STATIC
#include "speakers.h"

#include <stdint.h>
#include <stdio.h>

/* All memory that the model needs: nothing is allocated. */
FASTLSTM_ALIGNED static unsigned char memory[SPEAKERS_MEMORY_BYTES];
static speakers model;

static int fail(const char *what) {
  fprintf(stderr, "speakers: %s\n", what);
  return 1;
}

static int32_t most_probable(const float *y) {
  int32_t best = 0;
  for (int32_t k = 1; k < SPEAKERS_OUTPUTS; k++)
    if (y[k] > y[best]) best = k;
  return best;
}

int main(int argc, char **argv) {
  static float x[SPEAKERS_INPUTS], y[SPEAKERS_OUTPUTS];
  int32_t count = 0, speaker, right = 0;
  if (argc < 2) return fail("name the file of recordings");
  fastlstm_status status = speakers_init(&model, memory, sizeof memory);
  if (status != FASTLSTM_OK) return fail(fastlstm_status_text(status));
  FILE *in = fopen(argv[1], "rb"), *out = argc > 2 ? fopen(argv[2], "wb") : NULL;
  if (!in || (argc > 2 && !out)) return fail("a file cannot be opened");
  if (fread(&count, sizeof count, 1, in) != 1) return fail("the file of recordings is empty");
  for (int32_t n = 0; n < count; n++) {
    if (fread(x, sizeof x, 1, in) != 1 || fread(&speaker, sizeof speaker, 1, in) != 1) return fail("the recordings end early");
    status = speakers_run(&model, x, y);
    if (status != FASTLSTM_OK) return fail(fastlstm_status_text(status));
    right += most_probable(y) == speaker;
    if (out && fwrite(y, sizeof y, 1, out) != 1) return fail("cannot write the predictions");
  }
  printf("%d of %d recordings are told right (%s)\n", (int)right, (int)count, fastlstm_isa());
  fclose(in);
  return out && fclose(out) ? fail("cannot write the predictions") : 0;
}
