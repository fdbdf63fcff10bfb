#!/usr/bin/env bash
# Usage: ./download_ADE20K.sh [--help]
#
# Fetches ADE20K (MIT scene parsing, 20,210 training and 2,000 validation pictures), unpacks it to
# data/ADEChallengeData2016/ beside this script, and lists its pictures by their paths under images/
# in data/ADE20K_object150_train.txt and data/ADE20K_object150_val.txt. data.json in that folder names
# all for `train.py --data data/ADEChallengeData2016`. After an interruption, run it again: it goes
# on where it stopped. Run one at a time. The archive is removed at the end.
#
# Environment:
#   ADE20K_URL      address of the archive, for a mirror
#   ADE20K_SHA1     SHA-1 that the archive must have
#   ADE20K_DIR      target folder (default: data/ beside this script)
#   ADE20K_NEED_MB  room for the archive and the unpacked files together (default: 2500);
#                   what is already downloaded is taken off

set -euo pipefail

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$1" >&2; exit "${2:-1}"; }
have() { command -v "$1" >/dev/null 2>&1; }
need_one_of() { have "$1" || have "$2" || die "neither $1 nor $2 is here: install one, run again"; }

case $#:${1-} in
  0:) ;;
  1:--help | 1:-h) sed -n '2,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
  *) die "unknown argument: '$*' (try --help)" 2 ;;
esac

url=${ADE20K_URL:-http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip}
sha1=${ADE20K_SHA1:-219e1696abb36c8ba3a3afe7fb2f4b4606a897c7}
need=${ADE20K_NEED_MB:-2500}  # the archive takes 922, its files about 1200, the rest is margin
case $need in *[!0-9]*) die "ADE20K_NEED_MB is '$need': give a whole number of megabytes" ;; esac
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
dir=${ADE20K_DIR:-$here/data}
mkdir -p -- "$dir" 2>/dev/null || die "cannot make the folder $dir: set ADE20K_DIR to another one"
dir=$(CDPATH='' cd -- "$dir" && pwd)
name=ADEChallengeData2016 zip=$dir/ADEChallengeData2016.zip
tmp=$dir/.unpacking  # a fixed name: the next run clears what a killed one left

check_room() {
  local free got=0
  if [ -f "$zip" ]; then got=$(($(wc -c <"$zip") / 1048576)); fi
  need=$((10#$need > got ? 10#$need - got : 0))
  free=$(($(df -Pk "$dir" | awk 'NR == 2 { print $4 }') / 1024))
  say "ADE20K needs $need MB of room in $dir, $free MB are free."
  [ "$free" -ge "$need" ] ||
    die "$dir has $free MB of the $need MB needed: free some room or set ADE20K_DIR"
}

sum() { if have sha1sum; then sha1sum; else shasum -a 1; fi <"$zip" | cut -d ' ' -f 1; }

fetch() {  # one attempt, adding to what is already there
  local code rc=0 meter=-nv
  if have curl; then
    if [ -t 2 ]; then meter=--progress-bar; else meter=-sS; fi
    code=$(curl -fL "$meter" --connect-timeout 30 --speed-limit 1 --speed-time 60 \
      -C - -o "$zip" -w '%{http_code}' "$url") || rc=$?
    case $rc:$code in
      *:416) rc=0 ;;         # nothing left to send; whether that is right, the SHA-1 tells
      33:*) rm -f "$zip" ;;  # the server ignores ranges, so the next attempt starts afresh
    esac
    return "$rc"
  fi
  if [ -t 2 ]; then meter=--progress=bar; fi
  wget "$meter" -c --tries=1 --timeout=60 -O "$zip" "$url"
}

download() {
  local attempt=1 found
  need_one_of curl wget
  say "Downloading $url"
  until fetch; do
    [ "$attempt" -lt 4 ] || die "cannot download $url: run again to go on, or set ADE20K_URL"
    sleep $((5 * attempt))
    attempt=$((attempt + 1))
  done
  found=$(sum)
  if [ "$found" != "$sha1" ]; then
    rm -f "$zip"
    die "removed $zip, its SHA-1 is $found, not $sha1: run again to start afresh"
  fi
}

unpack() {
  say "Unpacking $zip"
  trap 'rm -rf "$tmp"' EXIT
  mkdir "$tmp"
  if have unzip; then unzip -q "$zip" -d "$tmp"; else python3 -m zipfile -e "$zip" "$tmp"; fi ||
    die "cannot unpack $zip: see the message above, then run again"
  [ -d "$tmp/$name/images" ] || die "$zip holds no $name/images: remove it and run again"
  rm -f "$dir"/ADE20K_object150_{train,val}.txt  # they named the files of an earlier copy
  mv "$tmp/$name" "$dir/"  # in one step, so that the folder is either whole or not there
}

write_list() {
  local list=$dir/ADE20K_object150_$1.txt
  if [ -s "$list" ]; then return; fi
  if ! (cd "$dir/$name/images" && find "$2" -name 'ADE_*.jpg') 2>/dev/null |
    LC_ALL=C sort >"$list.tmp" || [ ! -s "$list.tmp" ]; then
    rm -f "$list.tmp"
    die "no pictures in $dir/$name/images/$2: remove $dir/$name and run again"
  fi
  mv "$list.tmp" "$list"
  say "Wrote $list, $(($(wc -l <"$list"))) pictures."
}

write_data() {
  local table=$here/data/ADE20K_object150_classes.csv
  if [ "$dir" = "$here/data" ]; then table=../ADE20K_object150_classes.csv; fi
  printf '{\n  %s,\n  %s,\n  "list_class": "%s",\n  %s,\n  %s,\n  "lists": {%s, %s}\n}\n' \
    '"num_class": 150' '"label_offset": 1' "$table" \
    '"root_img": "images"' '"root_seg": "annotations"' \
    '"train": "../ADE20K_object150_train.txt"' '"val": "../ADE20K_object150_val.txt"' \
    >"$dir/$name/data.json"
}

if [ -d "$dir/$name" ]; then
  say "ADE20K is already in $dir/$name, nothing to download."
else
  need_one_of sha1sum shasum
  need_one_of unzip python3
  rm -rf "$tmp"
  check_room
  if [ ! -f "$zip" ] || [ "$(sum)" != "$sha1" ]; then download; fi
  unpack
fi
write_list train training
write_list val validation
write_data
if [ -f "$zip" ]; then
  rm "$zip"
  say "All is in place, removed $zip."
fi
