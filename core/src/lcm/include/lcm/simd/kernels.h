/* Every kernel of the kit: a plugin's one C file includes its `vec.h`, and then this.

   The files, each of which can be read alone: */
#ifndef LCM_SIMD_KERNELS_H
#define LCM_SIMD_KERNELS_H

#include <lcm/ops.h>

#define EXPORT __attribute__((visibility("default")))

#include <lcm/simd/vector.h>      /* the vocabulary: loads, stores, tails, reductions */
#include <lcm/simd/functions.h>   /* exp, log, tanh, erf, sigmoid on vectors */
#include <lcm/simd/own.h>         /* what a thread has of its own: scratch memory, whom to ask whether to go on */
#include <lcm/simd/threads.h>     /* work in pieces, by a pool of threads */
#include <lcm/simd/run.h>         /* programs: many kernels by one call */
#include <lcm/simd/tile.h>        /* the matrix product's tile in registers */
#include <lcm/simd/blocks.h>      /* block formats: a few numbers that share their scales */
#include <lcm/simd/formats.h>     /* numbers of any format, from where they lie */
#include <lcm/simd/encode.h>      /* f16 and q8_0, written */
#include <lcm/simd/fields.h>      /* the fields of many rows of blocks, as stored or interleaved */
#include <lcm/simd/strips.h>      /* 32 numbers of many rows of blocks, as small whole numbers */
#include <lcm/simd/panel.h>       /* the panels that a tile reads, packed from a matrix of any format */
#include <lcm/simd/gemm.h>        /* the matrix product: in blocks for the caches, in pieces for the threads */
#include <lcm/simd/skinny.h>      /* the product for few rows, which packs nothing */
#include <lcm/simd/rounded.h>     /* x as whole numbers of 8 bits */
#include <lcm/simd/int8_tile.h>   /* their products with strips */
#include <lcm/simd/int8.h>        /* linear_int8 */
#include <lcm/simd/linear.h>      /* linear, matmul and their gradients */
#include <lcm/simd/elementwise.h> /* arrays number by number; add */
#include <lcm/simd/activation.h>  /* gelu, silu, swiglu, geglu and their gradients */
#include <lcm/simd/rows.h>        /* rows of numbers: their sums, their largest */
#include <lcm/simd/norm.h>        /* rms_norm, layer_norm, softmax and their gradients */
#include <lcm/simd/loss.h>        /* cross_entropy, sum_squares and their gradients */
#include <lcm/simd/optim.h>       /* adamw_step, sgd_step */
#include <lcm/simd/embedding.h>   /* embedding and its gradient */
#include <lcm/simd/rope.h>        /* rope and its gradient, cache_write */
#include <lcm/simd/attention_tile.h> /* attention in bands of rows: what its passes are made of */
#include <lcm/simd/attention_row.h> /* attention of few query rows to many keys */
#include <lcm/simd/attention.h>   /* attention, and its like of one array */
#include <lcm/simd/attention_grad.h> /* their gradients */
#include <lcm/simd/limits.h>      /* the best that this machine can do, to compare kernels with */
#include <lcm/simd/ladder.h>      /* one product of matrices by one idea after the other, for lcm bench */

EXPORT int32_t lcm_abi(void) { return LCM_ABI; }

#endif
