"""The task manager against its model: whatever is done to it, in whatever order, what it says is true."""

from hypothesis import HealthCheck, settings

from tests.model.machine import TaskManagerMachine

TestTheTaskManager = TaskManagerMachine.TestCase
TestTheTaskManager.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,  # a busy machine must not fail it for one slow example
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
