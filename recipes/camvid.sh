#!/usr/bin/env bash
# CamVid's 11 classes from random weights, in an hour or two on two cores (docs/results.md).
#
#     recipes/camvid.sh camvid        # a folder with images, annotations, train.txt and val.txt
#     recipes/camvid.sh camvid 0006R0 # scored on this drive, and trained on the two others
#
# Started again, it goes on where it was cut short.
set -euo pipefail
data=$(realpath "${1:?the folder of the data is missing: recipes/camvid.sh DATA_FOLDER}")
cd "$(dirname "$0")/.."
lists=$data id=camvid
if [ -n "${2:-}" ]; then
    python recipes/camvid_drives.py "$data" ckpt/camvid-drives
    lists=ckpt/camvid-drives/$2 id=camvid-unseen-$2
fi

# The pyramid has the encoder's map of stride 4, for thin things; no dilation is needed for them.
python train.py --id "$id" --resume 1 --num_class 11 --list_class recipes/camvid.csv \
    --root_img "$data/images" --root_seg "$data/annotations" \
    --list_train "$lists/train.txt" --list_val "$lists/val.txt" \
    --arch_encoder resnet34 --arch_decoder fpn --weights_encoder none \
    --imgSize 256 --segSize 256 --batch_size_per_gpu 8 --scale_max 2 --color_jitter 0.4 \
    --class_weight sqrt --logit_adjust 0.75 \
    --optim Muon --beta1 0.95 --weight_decay 0.05 --norm_weight_decay 0 \
    --lr_encoder 5e-3 --lr_decoder 5e-3 --lr_schedule cosine --warmup_iters 100 --ema_decay 0.995 \
    --num_val -1 --num_epoch 70 --eval_epoch 10 --ckpt_epoch 70
# Larger scales than by default, and mirrored pictures, are better on known and on unseen drives.
python eval.py --id "$id" --suffix _latest.pth --scales 0.75 1 1.25 1.5 1.75 --flip 1 --report 1
