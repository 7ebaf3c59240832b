#!/bin/bash
# Submit a dataset: submit.sh BIDS OUT WORK [flags of sbatch for the participants' array].
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export BIDS OUT WORK
BIDS=$(realpath "$1") OUT=$(realpath -m "$2") WORK=$(realpath -m "$3")
shift 3

mkdir -p "$OUT" "$WORK"
count=$(find -L "$BIDS" -mindepth 1 -maxdepth 1 -type d -name 'sub-*' | wc -l)
array=$(sbatch --parsable --array="0-$((count - 1))" "$@" "$here/participants.sbatch")
group=$(sbatch --parsable --dependency="afterany:$array" "$here/group.sbatch")
echo "participants: $array, group: $group"
