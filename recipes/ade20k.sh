#!/usr/bin/env bash
# Networks on ADE20K, one after the other. None of these trainings has been run (recipes/README.md).
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

# run ENCODER DECODER FLAGS…
run() {
    local id="ade20k-own-${1/:/-}-$2"
    torchrun --nproc_per_node "$gpus" train.py --id "$id" --resume 1 \
        --arch_encoder "$1" --arch_decoder "$2" --batch_size_per_gpu $((16 / gpus)) "${@:3}"
    torchrun --nproc_per_node "$gpus" eval.py --id "$id" --suffix _latest.pth --report 1
}

# The four configurations that the reference of 2017 published scores of.
for encoder in resnet34_dilated8 resnet50_dilated8; do
    for decoder in c1_bilinear psp_bilinear; do
        run $encoder $decoder
    done
done
# The later reference's settings: 100,000 steps at a rate of 0.02, on pictures of about this size.
run resnet50dilated ppm_deepsup --imgSize 512 --segSize 512 --num_epoch 79 \
    --lr_encoder 0.02 --lr_decoder 0.02
# ConvNeXt's settings: Liu et al., "A ConvNet for the 2020s", 2022, appendix A.3, 160,000 steps.
run timm:convnext_tiny upernet --imgSize 512 --segSize 512 --num_epoch 127 --scale_max 2 \
    --color_jitter 1 --cat_max_ratio 0.75 --drop_path 0.4 --optim AdamW --lr_encoder 1e-4 \
    --lr_decoder 1e-4 --lr_pow 1 --warmup_iters 1500 --weight_decay 0.05 --norm_weight_decay 0
