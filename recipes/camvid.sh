#!/usr/bin/env bash
# CamVid's 11 classes from random weights, in two and a half hours on two cores (docs/results.md).
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
common=(--resume 1 --num_class 11 --list_class recipes/camvid.csv --root_img "$data/images"
    --root_seg "$data/annotations" --list_train "$lists/train.txt" --list_val "$lists/val.txt"
    --imgSize 256 --segSize 256 --batch_size_per_gpu 8 --class_weight sqrt --optim AdamW
    --weight_decay 0.01 --num_val -1 --eval_epoch 5 --ckpt_epoch 50)

# At a stride of 16 an epoch takes less than half the time. At a stride of 8 the same weights then
# learn thin things.
python train.py --id $id-16 "${common[@]}" --arch_encoder resnet34_dilated16 \
    --weights_encoder none --num_epoch 90 --lr_encoder 1e-3 --lr_decoder 1e-3
python train.py --id $id "${common[@]}" --arch_encoder resnet34_dilated8 \
    --weights_encoder ckpt/$id-16/encoder_latest.pth \
    --weights_decoder ckpt/$id-16/decoder_latest.pth \
    --num_epoch 24 --lr_encoder 3e-4 --lr_decoder 3e-4
python eval.py --id $id --suffix _latest.pth --report 1
