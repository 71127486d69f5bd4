"""What an orchestrator sees: its context, and what makes requests of what it asks for.

`orchestration` is the context itself; `plans` knows, per definition, all that can be known before a call; `options` merges
and checks what a call says; `fan_out` bounds how many calls run at a time, `combining` waits for several tasks; `logger` is
silent while replaying.
"""

from durable.context.combining import when_all, when_any
from durable.context.orchestration import Orchestration, OrchestrationContext
from durable.context.plans import Plans

__all__ = ["Orchestration", "OrchestrationContext", "Plans", "when_all", "when_any"]
