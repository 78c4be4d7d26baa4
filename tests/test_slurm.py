"""profiles/slurm on a real Slurm: one node on loopback, from Debian's packages. `make test-slurm`.

Needs root and `apt-get install slurmd slurmctld slurm-client munge`. The configuration is in
/etc/slurm during the test, because jobs read it from there.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from test_workflow import own_questions, run

CONFIGURATION = Path("/etc/slurm/slurm.conf")
TEXT = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=6000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("TINYLLM_TEST_SLURM"), reason="starts daemons: make test-slurm"
    ),
]


@pytest.fixture
def slurm(tmp_path_factory):
    """A Slurm cluster that consists of this machine."""
    if os.getuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        pytest.fail("needs root and: apt-get install slurmd slurmctld slurm-client munge")
    if CONFIGURATION.exists():
        pytest.fail(f"{CONFIGURATION} is there already: this machine has a Slurm of its own")
    folder = Path("/tmp") / f"tinyllm-slurm-{os.getpid()}"  # munge refuses folders others can write
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    host = socket.gethostname().partition(".")[0]
    CONFIGURATION.parent.mkdir(exist_ok=True)
    CONFIGURATION.write_text(TEXT.format(host=host, folder=folder, cores=os.cpu_count()))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    munge.append(f"--socket={folder}/munge.socket")
    daemons = []
    try:
        for start in (["munged", "-F", "--force", *munge], ["slurmctld", "-D"], ["slurmd", "-D"]):
            daemons.append(subprocess.Popen(start, stderr=subprocess.DEVNULL))
            time.sleep(2)
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo"], capture_output=True, text=True).stdout:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(1)
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        CONFIGURATION.unlink()
        shutil.rmtree(folder, ignore_errors=True)


def test_the_slurm_profile_submits_jobs_that_run(slurm, tmp_path):
    file = own_questions(tmp_path).name
    # This Slurm has no accounting, so job states are read from the queue.
    quick = ["--latency-wait", "5", "--slurm-init-seconds-before-status-checks", "5"]
    options = ["--", *quick, "--slurm-status-command", "squeue", "--until", "distill"]
    done = run(tmp_path, file, "--profile", "slurm", *options, timeout=400)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("has been submitted with SLURM jobid") == 2
    for name in ("01_data_prep", "03_distillation"):
        assert (tmp_path / f"runs/own/good/notebooks/{name}.ipynb").exists()
