from olive.search.search_parameter import Categorical

class BasePassConfig: ...

class PassConfigParam:
    def __init__(
        self,
        *,
        type_: object,
        required: bool = False,
        default_value: object = None,
        description: str | None = None,
        search_defaults: Categorical | None = None,
    ) -> None: ...
