"""How a run ends, well or badly: what is said, and what is kept."""

import math
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firstlight.checkpoints.find import best_of, checkpoints_of
from firstlight.checkpoints.manifest import WEIGHTS
from firstlight.checkpoints.model_file import save_model_file
from firstlight.errors import DivergedError, Error, RunError, one_line, shorten
from firstlight.files import replacing, replacing_by_path
from firstlight.output import note, tell
from firstlight.processes import trial
from firstlight.runs.run_folder import MODEL, SPIKES
from firstlight.training import report
from firstlight.training.heartbeat import Verdict
from firstlight.training.memory.estimate import is_out_of_memory
from firstlight.training.memory.micro_batches import parts_of_a_share
from firstlight.training.module import PretrainingModule
from firstlight.training.peers import Peers
from firstlight.training.spikes.record import summary as spikes_of
from firstlight.training.stopping import REQUEUE_SIGNAL, Stopped, in_slurm_job, requeue_slurm_job
from firstlight.training.trainer import AnotherFailedError, Trainer


@contextmanager
def explained_end(trainer: Trainer, peers: Peers | None = None) -> Iterator[None]:
    """Say where a run that ends inside can be resumed; a signal exits with 128 + its number.

    If one of `peers` is lost, say which.
    """
    try:
        yield
    except SystemExit as stop:
        stopped = _stopped(stop, trainer)
        if stopped is None:
            raise
        raise stopped from None
    except Exception as error:
        explained = _explained(error, trainer, peers)
        if explained is None:
            if trainer.is_global_zero:
                note(report.whereabouts(trainer.folder))
            raise
        raise explained from error
    finally:
        if trainer.is_global_zero:
            spikes = trainer.failures.attempt(SPIKES, spikes_of, trainer.folder) or []
            for line in [*spikes, *trainer.failures.summary()]:
                note(line)


def _stopped(stop: SystemExit, trainer: Trainer) -> SystemExit | None:
    """What ends this process if a signal has stopped the run, which is told; else None."""
    # After a second Ctrl-C Lightning exits by itself.
    interrupted = isinstance(stop.__context__, KeyboardInterrupt)
    if not isinstance(stop, Stopped) and not interrupted:
        return None
    # Lightning would kill all processes if one failed, before the first could say where to resume.
    if not trainer.is_global_zero:
        return SystemExit(0)
    tell(f"\nstopped after step {trainer.global_step}\n{report.whereabouts(trainer.folder)}")
    if not isinstance(stop, Stopped):
        return Stopped(signal.SIGINT, trainer.folder)
    # The job of a trial is that of its sweep, whose worker requeues it.
    if stop.signum == REQUEUE_SIGNAL and in_slurm_job() and trial() is None:
        requeue_slurm_job()
    return Stopped(stop.signum, trainer.folder)


def _explained(error: Exception, trainer: Trainer, peers: Peers | None) -> BaseException | None:
    """What is raised for `error`, with the place where the run can be resumed; None: itself."""
    ending: BaseException | None = error if isinstance(error, RunError) else None
    if peers is not None and (verdict := _verdict(error, peers)):
        ending = peers.end_with(verdict)
    elif ending is None and is_out_of_memory(error):
        ending = RunError(_out_of_memory(trainer, error))
    # A process that ends silently is no Error: another one says where.
    if isinstance(ending, Error):
        return type(ending)(f"{ending}\n{report.whereabouts(trainer.folder)}")
    return ending


def _verdict(error: Exception, peers: Peers) -> Verdict | None:
    """Which of `peers` is lost, or has failed, if that is why `error` was raised here."""
    if isinstance(error, AnotherFailedError):
        return peers.verdict()  # the process that failed may have said why
    return None if isinstance(error, RunError) else peers.why_lost(error)


def check_trained(trainer: Trainer, module: PretrainingModule) -> None:
    """Refuse to call a run done that is not.

    Raises:
        Exception: what a callback raised and the last step was still finished and saved after.
        DivergedError: it has no finite validation loss.
    """
    # With its own traceback: the callback is the user's, or a defect of ours.
    if trainer.failure is not None:
        raise trainer.failure
    if not math.isfinite(module.metrics.get("val/loss", math.nan)) or trainer.global_step == 0:
        raise DivergedError(
            f"the run ended after step {trainer.global_step} without a finite validation loss"
        )


def keep_best(module: PretrainingModule, folder: Path) -> None:
    """Write `model.safetensors`, the mark of a finished run: the best weights.

    They are the last ones if no checkpoint is kept.

    Raises:
        RunError: they cannot be written.
    """
    try:
        # The file of the best checkpoint itself: it has its config and checksum in it.
        if saved := checkpoints_of(folder):
            with (
                replacing(folder / MODEL, "wb") as copy,
                (best_of(saved) / WEIGHTS).open("rb") as best,
            ):
                shutil.copyfileobj(best, copy)
        else:
            weights = module.model.state_dict()
            with replacing_by_path(folder / MODEL) as file:
                save_model_file(
                    weights, file, config=module.config, tokenizer=module.tokenizer_state
                )
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise RunError(f"the best weights cannot be copied to {folder}: {reason}") from error


def _out_of_memory(trainer: Trainer, error: Exception) -> str:
    _, at_once = parts_of_a_share(trainer)
    ways = ["begin a new run with a smaller model.context_length or model.emb_dim"]
    if at_once > 1:
        smaller = f"trainer.micro_batch_size={at_once // 2}"
        ways.insert(0, f"resume with {smaller} (the same batch in smaller parts)")
    reason = shorten(one_line(error), 120)
    return f"out of memory on {trainer.strategy.root_device} ({reason}); {', or '.join(ways)}"
