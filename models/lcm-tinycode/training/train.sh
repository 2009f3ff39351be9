#!/bin/sh
# Everything that made this model, in order; about an hour and a half on two cores of a shared Xeon.
#
#   pip install 'lcm[openblas,plot]' && sh training/train.sh
#
# The first run was interrupted and resumed several times, which changes nothing but the clock.
set -eu
here=$(dirname "$0")
sh "$here/make_corpus.sh" corpus
lcm train corpus --out runs/first --steps 1300 --schedule constant --warmup 100 --lr 2e-3 --weight-decay 0.1 \
  --layers 6 --width 256 --heads 4 --key-heads 2 --hidden 704 --vocabulary 4096 --positions 512 \
  --context 256 --batch 16 --evaluate-every 100 --evaluate-batches 16 --save-every 100
lcm train corpus --out runs/second --from runs/first --steps 200 --schedule linear --warmup 20 --lr 1.5e-3 \
  --final 0.02 --weight-decay 0.1 --context 512 --batch 8 --evaluate-every 50 --evaluate-batches 16 --save-every 50
python "$here/pack.py" runs/second "$here/../src/lcm_tinycode"
