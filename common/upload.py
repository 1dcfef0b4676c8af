"""The result directory on the hub: the model with our card, and none of the user's rows."""

import glob
import shlex
import sys
from pathlib import Path

from common.adapters import ADAPTER_DIRECTORY
from common.console import say
from common.errors import UserError
from common.hub import HUB_ERRORS, is_unreachable
from common.lines import SHOWN_COMPLAINTS
from common.secret_scan import find_secrets

from huggingface_hub import HfApi

# They hold the rows that were predicted, gold answers included.
PRIVATE = ("predictions_*.jsonl", "report.html")
UNFINISHED = ("checkpoint-*", "_*")  # of the run itself and its trackers
FOLDERS = (ADAPTER_DIRECTORY, "plots")  # of others, as checkpoints and what trackers write, nothing is uploaded


def list_public_files(output_dir: Path) -> list[str]:
    """The files of a result directory that are uploaded, by their paths in it."""
    hidden = {path for pattern in PRIVATE for path in output_dir.glob(pattern)}
    files = [path for path in output_dir.iterdir() if path.is_file() and path not in hidden]
    files += [path for folder in FOLDERS for path in (output_dir / folder).rglob("*") if path.is_file()]
    files = [path for path in files if path != output_dir / ADAPTER_DIRECTORY / "README.md"]  # PEFT's, all placeholders
    names = [path.relative_to(output_dir).as_posix() for path in files]
    return sorted(name for name in names if name[0] not in "._" and not name.endswith(".tmp"))


def create_repository(training_args) -> str:
    """The id of the repository for the result, made if need be; done before a training that would be for nothing."""
    if not training_args.do_train:
        raise UserError("push_to_hub uploads a model, but none is trained: set do_train, or leave out push_to_hub.")
    if training_args.hub_strategy != "end":
        raise UserError(
            f"hub_strategy {training_args.hub_strategy.value} would upload what is not finished, and rows of the data: "
            "leave it out, and the result is uploaded at the end."
        )
    name = training_args.hub_model_id or Path(training_args.output_dir).absolute().name
    try:
        return HfApi().create_repo(name, private=training_args.hub_private_repo, exist_ok=True).repo_id
    except HUB_ERRORS as error:
        if is_unreachable(error):
            say(f"push_to_hub: the hub cannot be reached ({_shorten(error)}). The run goes on; it is tried at the end.")
            return name
        raise UserError(
            f"push_to_hub: there is no repository {name} on the hub for us ({_shorten(error)}). Log in (hf auth login, "
            "or HF_TOKEN), or leave out push_to_hub."
        ) from error


def refuse_secrets(output_dir: Path, names: list[str], repository: str) -> None:
    """UserError where one of these files holds what looks like a token: where, and of which kind, but not which."""
    secrets = find_secrets(output_dir, names)
    if not secrets:
        return
    said = [f"{place}: this looks like {kind}" for place, kind in secrets[:SHOWN_COMPLAINTS]]
    said += [f"and {len(secrets) - SHOWN_COMPLAINTS} more"] if len(secrets) > SHOWN_COMPLAINTS else []
    kept = " ".join(f"--exclude '{pattern}'" for pattern in (*PRIVATE, "checkpoint-*", "_*"))
    raise UserError(
        "\n".join(said) + f"\nThe result is whole, in {output_dir}, but was not uploaded. Take the secret out of these "
        "files and of what it came from, and make it invalid if others could read it. To upload the result then: "
        f"hf upload {repository} {output_dir} {kept}"
    )


def upload_result(output_dir: Path, repository: str, training_args) -> None:
    """Upload what may be seen of a finished result directory, and say what stays here.

    UserError where a secret is in it. Where the upload fails the run is whole all the same: the last line on stderr is
    the command that uploads it.
    """
    names = list_public_files(output_dir)
    refuse_secrets(output_dir, names, repository)
    revision, private = training_args.hub_revision, training_args.hub_private_repo
    try:
        api = HfApi()
        # It is there already, unless the hub could not be reached when the run began.
        repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=repository,
            folder_path=output_dir,
            allow_patterns=[glob.escape(name) for name in names],
            commit_message="Result of a run",
            revision=revision,
        )
    except HUB_ERRORS as error:
        command = ["hf", "upload", repository, str(output_dir)]
        command += ["--private"] if private else []
        command += ["--revision", revision] if revision else []
        command += [text for pattern in (*PRIVATE, *UNFINISHED) for text in ("--exclude", pattern)]
        sys.stdout.flush()
        print(
            f"warning: the result is whole, in {output_dir}, but was not uploaded ({_shorten(error)}). To do it by "
            f"hand: {shlex.join(command)}",
            file=sys.stderr,
            flush=True,
        )
        return
    say(f"uploaded     {repository}: {len(names)} files; {' and '.join(PRIVATE)} stay here")


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
