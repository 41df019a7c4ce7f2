#!/bin/bash
# One training over several machines under Slurm: `sbatch scripts/slurm.sh --config pendulum --env.num_envs 4`.
# Given again after a stop, with `--resume RUN`, it goes on, with as many processes or another number of them.
#SBATCH --job-name=worldmodel
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1            # torchrun starts the processes of a machine
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64             # environments run on these
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120            # to this script alone, two minutes before the time is over
#SBATCH --output=slurm-%j.txt

# The run's folder must be on a file system that all machines see: `--runs` says where.
processes=${SLURM_GPUS_ON_NODE:-1}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# After a SIGTERM, torchrun kills what has not ended in --shutdown-timeout seconds; it is less than the two minutes.
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$processes" --shutdown-timeout 100 \
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
    -m worldmodel train "$@" &
step=$!

# srun passes it on to every torchrun, and these to their processes: all stop at the same update, save and end with 143.
trap 'kill -TERM "$step"' TERM
wait "$step"  # which a signal ends
wait "$step"  # until the step has ended too
