"""The tools for tests: what the checkers refuse."""

from durable import App, Client
from durable.testing import Environment, simulate

app = App()


def plain_scenario(client: Client) -> None: ...


async def test(env: Environment) -> None:
    await env.advance(5)  # expect-error
    env.replace("charge", "paid")  # expect-error
    env.fail("charge", "no line")  # expect-error
    number: int = env.history_text("id")  # expect-error


Environment(test)  # expect-error
Environment(app).run(plain_scenario)  # expect-error
simulate(app, plain_scenario)  # expect-error
