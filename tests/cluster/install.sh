#!/usr/bin/env bash
# SLURM for tests/cluster, from Debian's or Ubuntu's packages: 25 MB, as root. Its services stay off; the tests start their own.
set -euo pipefail
if command -v slurmctld slurmd munged sbatch > /dev/null; then exit 0; fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends slurm-wlm slurmctld slurmd slurm-client munge
