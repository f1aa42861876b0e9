"""A request that is not answered as asked: its HTTP status and the message for the client."""

from http import HTTPStatus


class Refusal(Exception):
    """The message names the rule, what was received and the next step, like a UserError's."""

    def __init__(self, status: HTTPStatus, message: str, **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = {key.replace("_", "-"): value for key, value in headers.items()}
