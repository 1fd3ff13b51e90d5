from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable, Iterable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.plan import (
    DEFAULT_PIPELINE,
    CycleError,
    DuplicateStep,
    EmptyPlan,
    Parallel,
    Plan,
    PlanError,
    PlannedStep,
    SelfNeed,
    Series,
    TooManySteps,
    Tree,
    UnknownNeed,
    fold,
    problems,
    series_parallel,
)


def plan(*edges: str) -> Plan:
    """plan("a", "b:a", "c:ab"): b needs a, c needs a and b."""
    return Plan.of(steps(*edges))


def steps(*edges: str) -> list[PlannedStep]:
    parts = (edge.partition(":") for edge in edges)
    return [PlannedStep(id_, "prompt", tuple(needs)) for id_, _, needs in parts]


def notation(tree: Tree | None) -> str | None:
    """A tree as a(b|c)d."""
    if tree is None:
        return None
    return fold(tree, lambda step: step.id, "".join, lambda parts: f"({'|'.join(parts)})")


def precedence_of_dag(plan: Plan) -> set[tuple[str, str]]:
    before: dict[str, set[str]] = {}
    for id_ in plan.order:
        before[id_] = {b for need in plan.by_id[id_].needs for b in (need, *before[need])}
    return {(b, id_) for id_, all_before in before.items() for b in all_before}


def precedence_of_tree(tree: Tree) -> set[tuple[str, str]]:
    Pairs = tuple[set[str], set[tuple[str, str]]]  # noqa: N806

    def series(parts: list[Pairs]) -> Pairs:
        between = {
            pair
            for (first, _), (second, _) in itertools.combinations(parts, 2)
            for pair in itertools.product(first, second)
        }
        return set().union(*(ids for ids, _ in parts)), between.union(*(pairs for _, pairs in parts))

    def parallel(parts: list[Pairs]) -> Pairs:
        return set().union(*(ids for ids, _ in parts)), set().union(*(pairs for _, pairs in parts))

    return fold(tree, lambda step: ({step.id}, set()), series, parallel)[1]


def every_node(tree: Tree) -> Iterable[Tree]:
    yield tree
    if not isinstance(tree, PlannedStep):
        for part in tree.parts:
            yield from every_node(part)


def largest_antichain(plan: Plan) -> int:
    ordered = precedence_of_dag(plan)
    ids = [step.id for step in plan.steps]
    return max(
        size
        for size in range(1, len(ids) + 1)
        for chosen in itertools.combinations(ids, size)
        if not any(pair in ordered for pair in itertools.permutations(chosen, 2))
    )


class TestPlan:
    def test_the_default_pipeline_is_architect_then_builder_and_docs_then_qa(self) -> None:
        default = Plan.of(DEFAULT_PIPELINE)

        assert notation(series_parallel(default)) == "architect(builder|docs)qa"
        assert default.roots == ("architect",)
        assert default.levels() == (("architect",), ("builder", "docs"), ("qa",))
        assert default.width == 2
        assert all(step.id == step.kind for step in default.steps)

    def test_it_knows_who_depends_on_a_step(self) -> None:
        assert plan("a", "b:a", "c:ab", "d:cc").dependents == {
            "a": ("b", "c"),
            "b": ("c",),
            "c": ("d",),
            "d": (),
        }

    def test_its_order_puts_needs_first_and_otherwise_keeps_the_given_order(self) -> None:
        assert plan("e:b", "d", "c:a", "b", "a").order == ("d", "b", "e", "a", "c")

    def test_a_level_is_the_longest_way_from_a_root(self) -> None:
        assert plan("d:ac", "a", "b", "c:b").levels() == (("a", "b"), ("c",), ("d",))

    def test_equal_steps_make_equal_plans_that_cannot_be_changed(self) -> None:
        one = plan("a", "b:a")

        assert one == plan("a", "b:a")
        assert hash(one) == hash(plan("a", "b:a"))
        with pytest.raises(AttributeError):
            one.steps = ()  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("edges", "error", "message"),
        [
            ([], EmptyPlan, "a plan needs at least one step"),
            (["a:b", "b:a"], CycleError, "circle: a → b → a;"),
            (["x", "d:c", "b:ad", "c:b", "a"], CycleError, "circle: d → b → c → d;"),
            (["after:b", "a:b", "b:a"], CycleError, "circle: a → b → a;"),
            (["a:a"], SelfNeed, "step 'a' needs itself"),
            (["a", "b", "a"], DuplicateStep, "two steps are called 'a'"),
            (["a", "b:z"], UnknownNeed, "step 'b' needs 'z', which is not a step"),
        ],
    )
    def test_what_is_no_dag_is_refused_by_name(
        self, edges: list[str], error: type[PlanError], message: str
    ) -> None:
        with pytest.raises(error) as caught:
            plan(*edges)

        assert message in str(caught.value)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (error, str(caught.value))

    def test_a_plan_made_without_of_is_checked_too(self) -> None:
        with pytest.raises(SelfNeed):
            Plan((PlannedStep("a", "prompt", ("a",)),))

    def test_an_unknown_need_comes_with_the_id_that_was_probably_meant(self) -> None:
        with pytest.raises(UnknownNeed, match="did you mean 'outline'") as caught:
            Plan.of([PlannedStep("outline", "prompt"), PlannedStep("draft", "prompt", ("outlin",))])

        assert (caught.value.step, caught.value.need, caught.value.closest) == ("draft", "outlin", "outline")

    def test_two_thousand_steps_are_a_plan_and_one_more_is_not(self) -> None:
        assert len(Plan.of([PlannedStep(f"s{i}", "prompt") for i in range(2_000)]).steps) == 2_000
        with pytest.raises(TooManySteps, match="2001 steps are too many; a plan has at most 2000"):
            Plan.of([PlannedStep(f"s{i}", "prompt") for i in range(2_001)])

    def test_problems_lists_all_that_is_wrong(self) -> None:
        found = [type(problem) for problem in problems(steps("a:a", "b:x", "b:y"))]

        assert found == [SelfNeed, UnknownNeed, DuplicateStep, UnknownNeed]

    def test_two_thousand_unknown_needs_are_named_within_seconds(self) -> None:
        wrong = [PlannedStep(f"step-number-{i}", "prompt", (f"stop-number-{i}",)) for i in range(2_000)]
        started = time.perf_counter()

        assert len([*problems(wrong)]) == 2_000
        assert time.perf_counter() - started < 5

    def test_a_long_circle_is_named_in_short(self) -> None:
        ring = [PlannedStep(f"s{i}", "prompt", (f"s{(i - 1) % 2_000}",)) for i in range(2_000)]

        with pytest.raises(CycleError) as caught:
            Plan.of(ring)

        assert len(caught.value.cycle) == 2_001
        assert str(caught.value).startswith("steps wait for each other in a circle: s0 → s1 → ")
        assert len(str(caught.value)) < 200


class TestSeriesParallel:
    @pytest.mark.parametrize(
        ("edges", "tree"),
        [
            (["a"], "a"),
            (["a", "b"], "(a|b)"),
            (["b:a", "a"], "ab"),
            (["a", "b:a", "c:ab"], "abc"),
            (["q:ab", "b:a", "a"], "abq"),
            (["a", "b", "c:ab", "d:ab"], "(a|b)(c|d)"),
            (["a", "b", "c:a", "d:b"], "(ac|bd)"),
            (["a", "b:a", "c", "d:bc"], "(ab|c)d"),
            (["z", "y", "x:y"], "(z|yx)"),
            (["a", "b:a", "c:b", "d:a", "e:cd", "f"], "(a(bc|d)e|f)"),
        ],
    )
    def test_a_tree_is_found_for(self, edges: list[str], tree: str) -> None:
        assert notation(series_parallel(plan(*edges))) == tree

    @pytest.mark.parametrize(
        "edges",
        [
            ["a", "b", "c:a", "d:ab"],
            ["s", "a:s", "b:s", "c:a", "d:ab", "e:cd"],
            ["a", "b", "c", "d:ab", "e:bc", "f:ca"],
        ],
    )
    def test_the_shape_of_an_n_has_no_tree(self, edges: list[str]) -> None:
        assert series_parallel(plan(*edges)) is None
        assert plan(*edges).width is None

    def test_a_tree_keeps_the_steps_with_their_kinds(self) -> None:
        assert series_parallel(plan("a", "b:a")) == Series(
            (PlannedStep("a", "prompt"), PlannedStep("b", "prompt", ("a",)))
        )

    @given(
        st.recursive(
            st.just("step"),
            lambda part: st.tuples(
                st.sampled_from([Series, Parallel]), st.lists(part, min_size=2, max_size=4)
            ),
            max_leaves=25,
        ),
        st.randoms(use_true_random=False),
    )
    @settings(max_examples=100, deadline=None)
    def test_a_random_tree_comes_back_with_its_precedence(self, shape: object, random: Random) -> None:
        number = itertools.count()

        def build(shape: object) -> Tree:
            if shape == "step":
                return PlannedStep(f"s{next(number)}", "prompt")
            kind, parts = shape  # type: ignore[misc]
            return kind(tuple(build(part) for part in parts))

        wanted = precedence_of_tree(build(shape))
        ids = [f"s{i}" for i in range(next(number))]
        random.shuffle(ids)
        dag = Plan.of(PlannedStep(i, "prompt", tuple(b for b, a in sorted(wanted) if a == i)) for i in ids)

        tree = series_parallel(dag)

        assert tree is not None
        assert precedence_of_tree(tree) == wanted
        position = {id_: index for index, id_ in enumerate(ids)}
        for node in every_node(tree):
            if isinstance(node, Series | Parallel):
                assert len(node.parts) > 1
                assert not any(isinstance(part, type(node)) for part in node.parts)
            if isinstance(node, Parallel):
                firsts = [
                    min(position[s.id] for s in every_node(p) if isinstance(s, PlannedStep))
                    for p in node.parts
                ]
                assert firsts == sorted(firsts)

    @given(
        st.integers(1, 8).flatmap(
            lambda n: st.tuples(st.just(n), st.sets(st.tuples(*[st.integers(0, n - 1)] * 2)))
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_a_random_dag_has_a_tree_of_its_precedence_or_an_n(
        self, drawn: tuple[int, set[tuple[int, int]]]
    ) -> None:
        count, pairs = drawn
        dag = Plan.of(
            PlannedStep(f"s{i}", "prompt", tuple(f"s{b}" for b, a in sorted(pairs) if a == i and b < a))
            for i in range(count)
        )
        ordered = precedence_of_dag(dag)

        tree = series_parallel(dag)

        has_n = any(
            {(a, c), (a, d), (b, d)}
            == {pair for pair in itertools.permutations((a, b, c, d), 2) if pair in ordered}
            for a, b, c, d in itertools.permutations([step.id for step in dag.steps], 4)
        )
        assert (tree is None) == has_n
        if tree is not None:
            assert precedence_of_tree(tree) == ordered
            assert dag.width == largest_antichain(dag)

    @pytest.mark.parametrize(
        ("needs", "width"),
        [
            pytest.param(lambda i: [i - 1] if i else [], 1, id="chain"),
            pytest.param(lambda _: [], 2_000, id="fan"),
            pytest.param(
                lambda i: [0] if 0 < i < 1_999 else [*range(1, 1_999)] if i else [], 1_998, id="diamond"
            ),
            pytest.param(
                lambda i: range(i // 50 * 50 - 50, i // 50 * 50) if i >= 50 else [], 50, id="layers"
            ),
            pytest.param(lambda i: [(i - 1) // 2 * 2] if i else [], 1_000, id="deep tree"),
            pytest.param(lambda i: [j for j in (i - 40, i - 1 if i % 40 else -1) if j >= 0], None, id="grid"),
        ],
    )
    def test_two_thousand_steps_take_less_than_a_second_in_any_shape(
        self, needs: Callable[[int], Iterable[int]], width: int | None
    ) -> None:
        large = Plan.of(
            PlannedStep(f"s{i}", "prompt", tuple(f"s{j}" for j in needs(i))) for i in range(2_000)
        )
        started = time.perf_counter()

        assert (series_parallel(large) is None) == (width is None)

        assert time.perf_counter() - started < 1
        assert large.width == width
