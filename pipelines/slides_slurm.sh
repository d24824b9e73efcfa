#!/bin/bash
# A batch as one SLURM job: one of its tasks is the dask scheduler, one runs biosegkit predict, the others are workers.
# Needs the extra `batch` and dask-jobqueue in the environment that is active, and a disk that all nodes share.
#
#   sbatch --ntasks=10 pipelines/slides_slurm.sh run/ slides/ -o out/
#   sbatch --ntasks=10 pipelines/slides_slurm.sh run/ slides/ -o out/ --resume      # after the time was up, for example
#
# What was run of it, 2026-11-26: all but SLURM itself. The script, with a stand-in for srun that starts four tasks
# side by side on one machine and numbers them as SLURM does (dask-jobqueue 0.9.0): scheduler, client and two workers found
# each other, the slide CMU-1-Small-Region was done with the 2729 objects it has without a cluster, and all tasks ended with
# 0. By hand, `dask scheduler` and `dask worker` with --scheduler did both slides: the same bytes. shellcheck and bash -n
# say nothing. Not run: sbatch, several nodes, the time limit.
#
#SBATCH --job-name=biosegkit
#SBATCH --ntasks=10
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=4G
#SBATCH --time=12:00:00
set -euo pipefail
export OMP_NUM_THREADS=1
export MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_MMAP_THRESHOLD_=33554432  # dask's own value costs much time

roles='
import subprocess, sys
from dask_jobqueue.slurm import SLURMRunner

file = sys.argv[1]
with SLURMRunner(scheduler_file=file, worker_class="distributed.Nanny", worker_options={"nthreads": 1}):
    # only the client comes here
    done = subprocess.run(["biosegkit", "predict", *sys.argv[2:], "--scheduler", file])
sys.exit(done.returncode)
'
srun --kill-on-bad-exit=0 python -c "$roles" "scheduler-$SLURM_JOB_ID.json" "$@"
