"""What programs have at hand: this text stands before their own."""

CALLS: dict[str, int] = {}  # the numbers of the calls that it names: told after this text


def kernel(name, *arguments):
    """A call of the kernel by its name; raises what it fails with."""
    import ctypes

    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    numbers = (ctypes.c_long(one) if isinstance(one, int) else one for one in arguments)
    if (result := call(ctypes.c_long(CALLS[name]), *numbers)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: error {number}")
    return result


def machine_code(code):
    """Runs machine code; what it leaves in the register of results."""
    import ctypes
    import mmap

    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()


def attempt(*actions):
    """Tries one after the other; tells which of them the kernel let happen."""
    for number, action in enumerate(actions):
        try:
            action()
        except (OSError, ValueError):
            continue
        print("ESCAPED", number)
