#!/bin/bash
# A long run over several nodes, one rank per socket, that goes on by itself where a time limit stopped it.
#
#   sbatch --export=ALL,MAPPING=model.map,RUN=run,PROMPT="import os" examples/slurm_mpi.sh
#
# Nodes, time and, where yours asks for them, account and partition are for you to set here or on sbatch's command line.
# There must be no more ranks than chips in use, or some ranks have nothing to do.

#SBATCH --job-name=mmfree-neuro
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=2
#SBATCH --ntasks-per-socket=1
#SBATCH --exclusive
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=mmfree-neuro-%j.log
# Two minutes before the time limit every rank is told to end; the run then says where its last state lies.
#SBATCH --signal=TERM@120

set -u

MAPPING=${MAPPING:-model.map}
RUN=${RUN:-run}               # must lie where the node of rank 0 can write after a requeue, too: on a shared file system
PROMPT=${PROMPT:-import os}
NEW_TOKENS=${NEW_TOKENS:-100000}
SAVE_EVERY=${SAVE_EVERY:-256} # tokens; what is lost when a node dies is what was computed since
# ACTIVATE=.../bin/activate names the environment that mmfree-neuro is installed in, unless it is on PATH already.  mpi4py
# there must be built for, or find, the MPI library that srun starts (`srun --mpi=list`).
if [ -n "${ACTIVATE:-}" ]; then
    # shellcheck disable=SC1090
    . "$ACTIVATE"
fi

words=(
    simulate "$MAPPING" --prompt "$PROMPT" --new-tokens "$NEW_TOKENS"
    --engine mpi --save-every "$SAVE_EVERY" -o "$RUN"
)
if [ -e "$RUN/state.safetensors" ]; then
    words+=(--resume)
elif [ -e "$RUN/run.json" ]; then
    echo "$RUN is finished"
    exit 0
fi

# A rank that dies ends the step, and with it all other ranks.  Chips are spread by their synapses, neighbours together; add
# --ranks to say otherwise.
srun --kill-on-bad-exit=1 --cpu-bind=sockets mmfree-neuro "${words[@]}"
status=$?

# 0: the run is written.  2: the input is wrong, and would be wrong again.  Anything else: a limit, a node, a signal.
if [ "$status" -eq 0 ] || [ "$status" -eq 2 ]; then
    exit "$status"
fi
if [ -e "$RUN/state.safetensors" ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
    echo "status $status: requeued, to go on from the state in $RUN"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
