"""Several searches of one task, one after another: the next begins where one finds nothing more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_iovt.tuning.proposal import Proposal, Search


class SearchChain:
    """A search made of others.

    Args:
        makers: Make the searches when their turn comes; one may find that it has no space.
    """

    def __init__(self, makers: Sequence[Callable[[], Search | None]]) -> None:
        self._makers = list(makers)
        self._current: Search | None = None
        self._asked: dict[str, Search] = {}

    def propose(self, count: int) -> list[Proposal]:
        """See `proposal.Search`."""
        while True:
            found = self._current.propose(count) if self._current is not None else []
            new = [proposal for proposal in found if proposal.trial.key not in self._asked]
            if new:
                assert self._current is not None
                self._asked |= {proposal.trial.key: self._current for proposal in new}
                return new
            if found:
                continue
            if not self._makers:
                return []
            self._current = self._makers.pop(0)()

    def tell(self, proposal: Proposal, seconds: float | None) -> None:
        """See `proposal.Search`."""
        search = self._asked.get(proposal.trial.key)
        if search is not None:
            search.tell(proposal, seconds)
