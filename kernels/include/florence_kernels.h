/* The C ABI of the florence-edge kernels: raw pointers, a dims struct, the stream last, a status returned.
 *
 * Every operation exists twice with one signature: `florence_x` launches CUDA kernels on device memory and returns at
 * once; `florence_x_cpu` is its twin, plain C++ on host memory, which ignores `stream` and `workspace` and defines
 * what the CUDA kernel must compute. florence_x_workspace() gives the bytes of scratch memory of `florence_x`, 0 for
 * dims that are refused. A library built without CUDA exports no launcher and no workspace size:
 * florence_cuda_version() is 0.
 *
 * Shapes are in brackets, row major, the last index fastest. T is the element type named by `dtype`. Device pointers
 * to T must be 16-byte aligned. No launcher allocates, synchronises or reads device memory from the host, so all of
 * them can be captured in a CUDA graph. Nothing is launched when a status other than FLORENCE_OK is returned by the
 * checks; florence_last_error() then says what was given and what is allowed.
 */
#ifndef FLORENCE_KERNELS_H
#define FLORENCE_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FLORENCE_API __attribute__((visibility("default")))
#define FLORENCE_OP(name, ...)        \
  FLORENCE_API int name(__VA_ARGS__); \
  FLORENCE_API int name##_cpu(__VA_ARGS__)

/* Raised by one whenever a signature, a struct or the meaning of a field changes. */
#define FLORENCE_ABI_VERSION 2
#define FLORENCE_MAX_BEAMS 8

typedef enum florence_dtype { FLORENCE_F32 = 0, FLORENCE_F16 = 1, FLORENCE_BF16 = 2 } florence_dtype;

typedef enum florence_status {
  FLORENCE_OK = 0,
  FLORENCE_NULL_POINTER = 1,
  FLORENCE_BAD_SHAPE = 2,
  FLORENCE_BAD_DTYPE = 3,
  FLORENCE_BAD_OPTION = 4,
  FLORENCE_MISALIGNED = 5,
  FLORENCE_UNSUPPORTED_DEVICE = 6,
  FLORENCE_CUDA_ERROR = 1000 /* plus the cudaError_t */
} florence_status;

/* Which code computes an attention: AUTO takes tensor cores where the device (sm_80 and newer), dtype and shape allow.
 */
typedef enum florence_path {
  FLORENCE_PATH_AUTO = 0,
  FLORENCE_PATH_PORTABLE = 1,
  FLORENCE_PATH_TENSOR_CORES = 2
} florence_path;

typedef enum florence_channel_order { FLORENCE_RGB = 0, FLORENCE_BGR = 1 } florence_channel_order;

/* early_stopping of transformers: False, True, "never". */
typedef enum florence_early_stopping {
  FLORENCE_STOP_HEURISTIC = 0,
  FLORENCE_STOP_WHEN_FULL = 1,
  FLORENCE_STOP_NEVER = 2
} florence_early_stopping;

FLORENCE_API int florence_abi_version(void);
FLORENCE_API const char* florence_version(void);    /* of the project, "0.1.0" */
FLORENCE_API int florence_cuda_version(void);       /* toolkit the library was built with, 13000 for 13.0; 0: no CUDA */
FLORENCE_API const char* florence_cuda_archs(void); /* "75-real;87-real;120", "" without CUDA */
FLORENCE_API const char* florence_status_string(int status);
FLORENCE_API const char* florence_last_error(void); /* detail of this thread's last refusal, "" if there was none */

/* ---- resize and normalise ------------------------------------------------------------------------------------------
 * Antialiased bicubic (a = -0.5) exactly as Pillow 13's `Image.resize(size, BICUBIC)` on 8-bit images: two passes, each
 * in 22-bit fixed point and rounded to 8 bits. Then out = (value / 255 - mean) / std. */
typedef struct florence_resize_dims {
  int32_t in_height, in_width; /* each side <= 65535 */
  int64_t row_stride;          /* bytes from one image row to the next, >= 3 * in_width */
  int32_t out_height, out_width;
  int32_t channel_order; /* florence_channel_order of the input; the output is RGB */
  int32_t dtype;         /* of the output */
  float mean[3];         /* R, G, B, of values in 0..1 */
  float std[3];
} florence_resize_dims;

/* image [in_height, in_width, 3] uint8 -> out [3, out_height, out_width] T */
FLORENCE_API size_t florence_resize_normalize_workspace(const florence_resize_dims* dims);
FLORENCE_OP(florence_resize_normalize, const florence_resize_dims* dims, const uint8_t* image, void* out,
            void* workspace, void* stream);

/* ---- window attention ----------------------------------------------------------------------------------------------
 * DaViT spatial attention inside windows of window x window tokens, scale head_dim^-0.5. The map is padded at the right
 * and at the bottom to whole windows; a pad token's q, k and v are the QKV bias and it takes part in the softmax. */
typedef struct florence_window_dims {
  int32_t batch, height, width;
  int32_t channels, heads; /* channels == 32 * heads */
  int32_t window;          /* 1..12; tensor cores need 12 */
  int32_t dtype;
  int32_t path;
} florence_window_dims;

/* qkv [batch, height*width, 3, heads, 32] T, bias [3, heads, 32] T (may be NULL where nothing is padded)
 * -> out [batch, height*width, heads, 32] T */
FLORENCE_OP(florence_window_attention, const florence_window_dims* dims, const void* qkv, const void* bias, void* out,
            void* stream);

/* ---- channel attention ---------------------------------------------------------------------------------------------
 * Per image and group of 32 channels: A = softmax(Q^T K * tokens^-0.5) [32, 32], out = V A^T. The sum over tokens is
 * split into chunks of fixed size and added in a fixed order in fp32: two runs give the same bits. */
typedef struct florence_channel_dims {
  int32_t batch, tokens;
  int32_t channels, groups; /* channels == 32 * groups */
  int32_t dtype;
  int32_t path;
} florence_channel_dims;

/* qkv [batch, tokens, 3, groups, 32] T -> out [batch, tokens, groups, 32] T */
FLORENCE_API size_t florence_channel_attention_workspace(const florence_channel_dims* dims);
FLORENCE_OP(florence_channel_attention, const florence_channel_dims* dims, const void* qkv, void* out, void* workspace,
            void* stream);

/* ---- decoder attention ---------------------------------------------------------------------------------------------
 * One query per beam. Rows are image-major: row = image * beams + beam. */
typedef struct florence_self_dims {
  int32_t batch, beams;
  int32_t heads, head_dim; /* head_dim 32 or 64 */
  int32_t max_length;      /* positions in the cache */
  int32_t row_stride; /* elements from one row of q, k, v to the next: heads*head_dim, or 3 times that when fused */
  int32_t dtype;
  int32_t append; /* 1: also write k and v into the cache at `position` */
  float scale;    /* multiplies q.k, head_dim^-0.5 for BART */
} florence_self_dims;

/* q, k, v [batch*beams, heads, head_dim] T with row_stride; k_cache, v_cache [batch, beams, heads, max_length,
 * head_dim] T; indirection [batch, beams, max_length] uint8: the beam slot that holds position t of this beam's
 * history, numbers from `beams` on mean the last slot; position [1] int32: of q, k and v, 0 <= position < max_length
 * (outside it nothing is done); image_done [batch] int32 or NULL: rows of images with a non-zero entry are left alone
 * -> out [batch*beams, heads, head_dim] T. Positions before `position` come from the cache, `position` from k and v. */
FLORENCE_OP(florence_decoder_self_attention, const florence_self_dims* dims, const void* q, const void* k,
            const void* v, void* k_cache, void* v_cache, const uint8_t* indirection, const int32_t* position,
            const int32_t* image_done, void* out, void* stream);

/* Writes k and v into the cache at `position`, for clients whose attention must not write its inputs. */
FLORENCE_OP(florence_kv_append, const florence_self_dims* dims, const void* k, const void* v, void* k_cache,
            void* v_cache, const int32_t* position, const int32_t* image_done, void* stream);

typedef struct florence_cross_dims {
  int32_t batch, beams;
  int32_t heads, head_dim; /* head_dim 32 or 64 */
  int32_t source_length;
  int32_t row_stride; /* elements from one row of q to the next */
  int32_t dtype;
  float scale;
} florence_cross_dims;

/* q [batch*beams, heads, head_dim] T; k, v [batch, heads, source_length, head_dim] T, read once for all beams of an
 * image; lengths [batch] int32 or NULL: valid source positions (none valid: the output is 0); image_done as above
 * -> out [batch*beams, heads, head_dim] T */
FLORENCE_API size_t florence_decoder_cross_attention_workspace(const florence_cross_dims* dims);
FLORENCE_OP(florence_decoder_cross_attention, const florence_cross_dims* dims, const void* q, const void* k,
            const void* v, const int32_t* lengths, const int32_t* image_done, void* out, void* workspace, void* stream);

/* ---- beam search ---------------------------------------------------------------------------------------------------
 * transformers >= 4.50 `generate(do_sample=False)` with one EOS token and the decoder prompt [start_token]. Candidates
 * with equal scores are ordered by beam, then by logit (larger first), then by token (smaller first). A NaN logit
 * counts as -inf, +inf as the largest float; a row of -inf gives no candidate a finite score. beams == 1 with
 * FLORENCE_STOP_WHEN_FULL is greedy search. */
typedef struct florence_beam_dims {
  int32_t batch, beams; /* beams <= FLORENCE_MAX_BEAMS */
  int32_t vocab;        /* 2..131072 */
  int32_t max_length;   /* where a sequence ends, the start token included; 2..capacity */
  int32_t capacity;     /* tokens from one sequence to the next in memory, up to 4096 */
  int32_t dtype;        /* of the logits */
  int32_t start_token, eos_token;
  int32_t forced_bos_token, forced_eos_token; /* -1: none */
  int32_t no_repeat_ngram;                    /* 0: off */
  int32_t min_new_tokens;
  int32_t early_stopping; /* florence_early_stopping */
  float length_penalty;
} florence_beam_dims;

/* All arrays live in one block of florence_beam_state_size() bytes; florence_beam_state_bind() fills the pointers in.
 * Where they lie depends on batch, beams and capacity alone: searches of other settings may share a block. */
typedef struct florence_beam_state {
  int32_t* position;        /* [1] index of the token the next forward pass reads; sequences hold position + 1 tokens */
  int32_t* next_tokens;     /* [batch, beams] input of the next forward pass */
  int32_t* parents;         /* [batch, beams] beam each running beam came from in the last step */
  uint8_t* indirection;     /* [batch, beams, capacity] for florence_decoder_self_attention */
  int32_t* running_tokens;  /* [batch, beams, capacity] */
  float* running_logprobs;  /* [batch, beams, capacity], of each token; entry 0 is 0 */
  float* running_scores;    /* [batch, beams] sums of log-probabilities */
  int32_t* finished_tokens; /* [batch, beams, capacity], best hypothesis first */
  float* finished_logprobs; /* [batch, beams, capacity], after the logits processors: a forced token has 0 */
  float* finished_scores;   /* [batch, beams] sum / length^length_penalty; -1e9 where empty */
  int32_t* finished_lengths; /* [batch, beams] tokens with the start token */
  int32_t* finished_flags;   /* [batch, beams] 1 where a hypothesis is kept */
  int32_t* can_improve;      /* [batch] */
  int32_t* image_done;       /* [batch] 1: this image's search is over and its arrays no longer change */
  float* length_norms;       /* [capacity + 1] length^length_penalty */
  int32_t* arrivals;         /* [1] blocks of the running step that have finished */
} florence_beam_state;

FLORENCE_API size_t florence_beam_state_size(const florence_beam_dims* dims);
FLORENCE_API int florence_beam_state_bind(const florence_beam_dims* dims, void* block, florence_beam_state* state);

/* Starts a search: one start token in every beam, position 0. progress as below. */
FLORENCE_OP(florence_beam_begin, const florence_beam_dims* dims, const florence_beam_state* state, int32_t* progress,
            void* stream);

/* One step for every image that is not done: logits [batch*beams, vocab] T of the forward pass at `position`. allowed
 * [batch*beams, ceil(vocab / 8)] uint8 or NULL: a token whose bit (token % 8, the lowest first, of byte token / 8) is 0
 * counts as -inf after the log-softmax; a forced token needs no bit. Advances position unless every image is done.
 * progress [2] int32, in memory that the host can read without a copy (pinned): images still searching, tokens per
 * sequence. */
FLORENCE_API size_t florence_beam_step_workspace(const florence_beam_dims* dims);
FLORENCE_OP(florence_beam_step, const florence_beam_dims* dims, const florence_beam_state* state, const void* logits,
            const uint8_t* allowed, int32_t* progress, void* workspace, void* stream);

/* ---- CUDA graphs (CUDA builds only) --------------------------------------------------------------------------------
 * Thin handles for clients whose language binding has no graph API. `stream` must not be the default stream. */
FLORENCE_API int florence_graph_begin(void* stream);
FLORENCE_API int florence_graph_end(void* stream, void** graph, uint64_t* nodes); /* *graph is NULL on failure */
FLORENCE_API int florence_graph_abort(void* stream);                              /* leaves capture, clears the error */
FLORENCE_API int florence_graph_upload(void* graph, void* stream);
FLORENCE_API int florence_graph_launch(void* graph, void* stream);
FLORENCE_API int florence_graph_destroy(void* graph);

#ifdef __cplusplus
}
#endif
#endif
