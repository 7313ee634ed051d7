"""What docs/scheduling.md promises, over whatever hypothesis makes up."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from service.scheduler import Policy
from tests.support.schedules import FAR_S, LARGE, OTHER, SMALL, Worker, affine_s, ask, picture

pictures = st.builds(
    picture,
    index=st.just(0),
    group=st.sampled_from([SMALL, LARGE, OTHER]),
    num_rows=st.integers(1, 2),
    steps_left=st.integers(1, 6),
    priority=st.integers(0, 2),
    owner=st.sampled_from("abc"),
    deadline_s=st.sampled_from([-1.0, 5.0, 20.0, FAR_S]),
    cost_per_step=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
)
crowds = st.lists(pictures, min_size=1, max_size=12).map(
    lambda crowd: [replace(one, index=index) for index, one in enumerate(crowd)]
)
budgets = st.integers(2, 6)
# Of pictures that join before a forward, and whether the oldest one is cancelled then.
arrivals = st.lists(st.tuples(st.lists(pictures, max_size=3), st.booleans()), min_size=1, max_size=25)
policies = st.builds(Policy, max_wait_forwards=st.integers(1, 6), max_borrowed_steps=st.integers(0, 5))


def padded_s(group, num_rows):
    """As on an engine that knows forwards of 1, 2, 4 and 8 rows only."""
    return affine_s(group, next(size for size in (1, 2, 4, 8) if size >= num_rows))


def play(schedule, max_rows, policy, step_s=padded_s):
    """A worker's life: yields it, what it held and what was chosen, forward by forward, until nothing is left."""
    worker = Worker(max_rows, policy, step_s)
    num_joined = 0
    for joining, is_one_cancelled in schedule + [([], False)] * 400:
        if is_one_cancelled and worker.held:
            del worker.held[min(worker.held)]
        for one in joining:
            worker.join(replace(one, index=num_joined))
            num_joined += 1
        if worker.held:
            before = dict(worker.held)
            yield worker, before, worker.step()


@given(arrivals, budgets, policies)
@settings(deadline=None, max_examples=50)
def test_a_forward_holds_pictures_of_one_group_within_the_rows_and_never_none(schedule, max_rows, policy):
    for _, held, choice in play(schedule, max_rows, policy):
        taken = [held[index] for index in choice.indices]
        assert taken
        assert len(set(choice.indices)) == len(taken)
        assert len({one.group for one in taken}) == 1
        assert choice.num_rows == sum(one.num_rows for one in taken) <= max_rows


@given(arrivals, budgets, policies)
@settings(deadline=None, max_examples=50)
def test_nobody_misses_more_forwards_than_the_bound_and_everybody_leaves(schedule, max_rows, policy):
    most_held = 0
    worker = None
    for worker, held, choice in play(schedule, max_rows, policy):
        most_held = max(most_held, len(held))
        bound = policy.max_wait_forwards + most_held - 1
        for index, one in held.items():
            num_missed = worker.num_forwards - one.last_step_at - (index in choice.indices)
            assert num_missed <= bound
    assert worker is None or not worker.held


@given(crowds, budgets, st.randoms(use_true_random=False))
def test_the_same_question_has_the_same_answer_in_whatever_order_it_is_asked(crowd, max_rows, source):
    answer = ask(crowd, max_rows=max_rows)
    assert ask(crowd, max_rows=max_rows) == answer
    shuffled = source.sample(crowd, len(crowd))
    assert ask(shuffled, max_rows=max_rows).indices == answer.indices


@given(crowds, budgets)
def test_a_higher_class_goes_first_and_nobody_below_takes_a_row_that_it_could_use(crowd, max_rows):
    choice = ask(crowd, max_rows=max_rows)
    taken = [crowd[index] for index in choice.indices]
    assert taken[0].priority == min(one.priority for one in crowd)
    for left_out in crowd:
        if left_out.index not in choice.indices and left_out.group == taken[0].group:
            lower = sum(one.num_rows for one in taken if one.priority > left_out.priority)
            assert lower + max_rows - choice.num_rows < left_out.num_rows


@given(st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=2, max_size=5), st.integers(1, 6), st.integers(1, 60))
@settings(deadline=None, max_examples=50)
def test_tenants_with_a_backlog_get_equal_shares_to_within_one_step(costs, max_rows, num_forwards):
    worker = Worker(max_rows)
    for tenant, cost in enumerate(costs):
        crowd = [picture(10 * tenant + i, owner=str(tenant), cost_per_step=cost, steps_left=999) for i in range(7)]
        worker.join(*crowd)
    for _ in range(num_forwards):
        worker.step()
        charged = [worker.charged[str(tenant)] for tenant in range(len(costs))]
        assert max(charged) - min(charged) <= max(costs) + 1e-9


@given(
    st.lists(
        st.tuples(st.sampled_from([SMALL, LARGE, OTHER]), st.integers(1, 5)),
        min_size=2,
        max_size=3,
        unique_by=lambda group: group[0],
    ),
    st.integers(1, 60),
)
@settings(deadline=None, max_examples=50)
def test_groups_of_one_tenant_each_get_equal_device_time_to_within_one_forward(groups, num_forwards):
    worker = Worker()
    for number, (group, num_pictures) in enumerate(groups):
        crowd = [picture(10 * number + i, owner=str(number), group=group, steps_left=999) for i in range(num_pictures)]
        worker.join(*crowd)
    longest_s = max(affine_s(group, num_pictures) for group, num_pictures in groups)
    for _ in range(num_forwards):
        worker.step()
        seconds = [worker.device_s[group] for group, _ in groups]
        assert max(seconds) - min(seconds) <= longest_s + 1e-9
