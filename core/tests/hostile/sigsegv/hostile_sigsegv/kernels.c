/* A constructor: it runs when the library is loaded, before anything in it is asked. */
__attribute__((constructor)) static void crash(void) { *(volatile int *)8 = 1; }

int lcm_abi(void) { return 1; }
