// Says hello and resets the machine.
#include "guest.h"

void guest_main(void) {
  print("hello from the guest\n");
  reset();
}
