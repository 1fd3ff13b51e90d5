"""LLM backends: one narrow protocol, one file a vendor, typed errors."""

from providers.base import Provider as Provider
from providers.base import arguments as arguments
from providers.base import ask as ask
from providers.errors import ProviderError as ProviderError
from providers.types import Allowance as Allowance
from providers.types import Completion as Completion
from providers.types import FinishReason as FinishReason
from providers.types import Message as Message
from providers.types import Request as Request
from providers.types import Tool as Tool
from providers.types import Usage as Usage
