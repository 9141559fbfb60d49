"""Where the benchmark data lie: a folder, or a data set of the hub that is laid out like it."""

from pathlib import Path

from refdesk.eval.errors import MissingData

HUB = "hub:"


def benchmark_folder(source: str) -> Path:
    """The folder that `source` names: a path, or `hub:OWNER/NAME`, which is downloaded once and then read from the
    hub's cache.

    Raises:
        MissingData: no such folder, or the hub does not give it.
    """
    if not source.startswith(HUB):
        path = Path(source).expanduser()
        if not path.is_dir():
            raise MissingData(f"no benchmark data at {source}; expected a folder, or {HUB}OWNER/NAME")
        return path
    from huggingface_hub import snapshot_download  # only whoever asks for the hub needs it
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name = source.removeprefix(HUB)
    try:
        return Path(snapshot_download(name, repo_type="dataset"))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise MissingData(f"{source}: the hub does not give this data set: {error}") from error
