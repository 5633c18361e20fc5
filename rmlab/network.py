"""Whether a service can be reached, asked before a library waits and tries again for a minute."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from functools import cache


def answers(url: str, seconds: float) -> bool:
    """Returns whether anything speaks HTTP at `url`, through the proxy of the environment, within `seconds`."""
    heard = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
        except urllib.error.HTTPError:
            pass  # an error page is an answer
        except (OSError, ValueError):
            return
        heard.set()

    asking = threading.Thread(target=ask, daemon=True)  # looking a name up has no time limit of its own
    asking.start()
    asking.join(seconds)
    return heard.is_set()


@cache
def hub_is_silent(seconds: float = 5.0) -> bool:
    """Returns whether the hub would be waited for in vain; its libraries obey HF_HUB_OFFLINE themselves."""
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    return not HF_HUB_OFFLINE and not answers(ENDPOINT, seconds)
