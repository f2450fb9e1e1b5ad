// What a guest without an operating system is given by the way in which it was started
// (pvh.c, pv.c) for what it does (guest.c). Constants and layouts are those of Xen's
// public headers (xen/include/public).

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define BARRIER() __asm__ volatile("mfence" ::: "memory")

enum { PAGE = 4096, RING = 1024 };
enum { SCHED_OP = 29, EVENT_CHANNEL_OP = 32 };

struct store_page {
  u8 requests[RING], responses[RING];
  volatile u32 request_consumer, request_producer, response_consumer, response_producer;
  volatile u32 features, connection, error;
};
struct console_page {
  u8 in[1024], out[2048];
  volatile u32 in_consumer, in_producer, out_consumer, out_producer;
};

struct given {
  struct store_page *store;
  struct console_page *console;
  u32 store_port, console_port;
  // struct shared_info: the pending bits come after 32 vcpu_info.
  u8 *shared_info;
  const char *command_line;
};

// A hypercall, with as many arguments as any needs that both kinds of guest make.
long hypercall(u32 number, unsigned long first, void *second);

__attribute__((noreturn)) void guest(const struct given *given);
