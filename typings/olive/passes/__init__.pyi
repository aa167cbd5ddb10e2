from olive.hardware.accelerator import AcceleratorSpec
from olive.passes.pass_config import PassConfigParam

class Pass:
    accelerator_spec: AcceleratorSpec
    @classmethod
    def default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]: ...
