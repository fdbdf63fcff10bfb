#!/usr/bin/env bash
# The four configurations with published scores on ADE20K, one after the other.
#
#     ./download_ADE20K.sh
#     recipes/ade20k.sh        # on one GPU
#     recipes/ade20k.sh 8      # on eight
#
# All train on 16 pictures a step: the number of GPUs has to divide that. Started again, it goes on
# where it was cut short, with as many GPUs as before.
set -euo pipefail
cd "$(dirname "$0")/.."
gpus=${1:-1}

for encoder in resnet34_dilated8 resnet50_dilated8; do
    for decoder in c1_bilinear psp_bilinear; do
        torchrun --nproc_per_node "$gpus" train.py --id "ade20k-$encoder-$decoder" --resume 1 \
            --arch_encoder $encoder --arch_decoder $decoder --batch_size_per_gpu $((16 / gpus))
        torchrun --nproc_per_node "$gpus" eval.py --id "ade20k-$encoder-$decoder" \
            --suffix _latest.pth --report 1
    done
done
