"""Which limits and budgets bind a request: a lookup by whose it is, then whether they are for its model."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.core.budgets import Budget
from gateway.core.limits import Limit, Scope

_Rule = TypeVar("_Rule", Limit, Budget)


def project_subject(tenant: str, project: str) -> str:
    """Name a project as the subject of a limit or a budget: names of projects are unique in a tenant only."""
    return f"{tenant}/{project}"


@dataclass(frozen=True, slots=True)
class Bindings(Generic[_Rule]):
    """Limits or budgets by scope and subject, without the removed ones."""

    by_subject: Mapping[tuple[str, str], tuple[_Rule, ...]]

    @classmethod
    def of(cls, rules: Iterable[_Rule]) -> "Bindings[_Rule]":
        """Sort *rules* by whom they bind."""
        found: dict[tuple[str, str], list[_Rule]] = {}
        for rule in rules:
            if not rule.is_removed:
                found.setdefault((rule.scope, rule.subject), []).append(rule)
        return cls({subject: tuple(all_of) for subject, all_of in found.items()})

    def __bool__(self) -> bool:
        return bool(self.by_subject)

    def bind(self, tenant: str, project: str, key: str, model: str) -> Iterator[_Rule]:
        """Give those that bind a request of *key* for *model*."""
        subjects = (
            (Scope.TENANT.value, tenant),
            (Scope.PROJECT.value, project_subject(tenant, project)),
            (Scope.KEY.value, key),
            (Scope.MODEL.value, model),
        )
        for subject in subjects:
            for rule in self.by_subject.get(subject, ()):
                if rule.model in ("", model) and rule.tenant in ("", tenant):
                    yield rule

    def of_caller(self, tenant: str, project: str, key: str) -> Iterator[_Rule]:
        """Give those that may bind a request of *key*, whatever model it is for."""
        mine = {
            (Scope.TENANT.value, tenant),
            (Scope.PROJECT.value, project_subject(tenant, project)),
            (Scope.KEY.value, key),
        }
        for subject, rules in self.by_subject.items():
            if subject in mine or subject[0] == Scope.MODEL.value:
                yield from (rule for rule in rules if rule.tenant in ("", tenant))

    def of_tenant(self, tenant: str) -> Iterator[_Rule]:
        """Give all of a tenant's own, whichever of its projects and keys they bind."""
        for rules in self.by_subject.values():
            yield from (rule for rule in rules if rule.tenant == tenant)
