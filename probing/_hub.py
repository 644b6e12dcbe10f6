"""Models on the Hugging Face Hub, as local folders."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

_READ = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_SKIP = ["*/*", "consolidated*"]


def snapshot(name: str, revision: str | None, unknown: str) -> tuple[Path, str]:
    """Folder and commit of a Hub model: downloaded once, afterwards from the cache, also without a network.

    Only safetensors are fetched; a repository that has none is read from its `pytorch_model.bin`, which
    transformers loads with `weights_only=True`.

    Args:
        unknown: The message when there is no such model.
    """
    from ._models import ModelError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_READ, ignore_patterns=_SKIP))
        if not list(folder.glob("*.safetensors")):
            snapshot_download(name, revision=revision, allow_patterns=["pytorch_model*.bin"], ignore_patterns=_SKIP)
    except GatedRepoError:
        raise ModelError(f"{name} is gated: accept its licence at https://huggingface.co/{name} and set HF_TOKEN, or "
                         "give a directory") from None
    except RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {revision!r}; see https://huggingface.co/{name}/commits") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelError(unknown) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ModelError(f"{unknown}. The Hub was asked and could not be reached ({type(error).__name__}), and "
                         f"{name} is not in the local cache") from None
    return folder, folder.name
