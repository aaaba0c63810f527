// Lets Python import the library; the schemas are defined in operators.py, the kernels register themselves.

#include "registration.h"

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
