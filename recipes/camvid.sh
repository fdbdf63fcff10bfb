#!/usr/bin/env bash
# CamVid's 11 classes from random weights, in two and a half hours on two cores (README: Results).
#
#     recipes/camvid.sh camvid        # a folder with images, annotations, train.txt and val.txt
#
# What was cut short goes on where it was saved.
set -euo pipefail
data=$(realpath "${1:?the folder of the data is missing: recipes/camvid.sh DATA_FOLDER}")
cd "$(dirname "$0")/.."

python train.py --id camvid --resume 1 --num_class 11 --list_class recipes/camvid.csv \
    --list_train "$data/train.txt" --list_val "$data/val.txt" \
    --root_img "$data/images" --root_seg "$data/annotations" \
    --arch_encoder resnet34_dilated16 --weights_encoder none --imgSize 256 --segSize 256 \
    --batch_size_per_gpu 8 --num_epoch 150 --eval_epoch 10 --num_val -1 --class_weight sqrt \
    --optim AdamW --lr_encoder 1e-3 --lr_decoder 1e-3 --weight_decay 0.01 --ckpt_epoch 50
python eval.py --id camvid --suffix _latest.pth --report 1
