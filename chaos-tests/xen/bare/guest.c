// A guest without an operating system, however it was started. It reaches its xenstore
// ring directly, so that it can do to it what no kernel would. What it does stands in its
// command line:
//   calm     tries its store, tells what came of that in data/store, and sleeps
//   steady   the same, then writes and reads for ever; data/trips tells how often
//   spin     takes all processor time that it gets, and nothing else
//   hostile  floods its store up to each quota, does not read answers, and writes nonsense
//            over its ring, for ever; after each round it tells on its console what it met

#include "guest.h"

enum { YIELD = 0, POLL = 3, SEND = 4 };
enum { DIRECTORY = 1, READ = 2, WATCH = 4, TRANSACTION_START = 6, WRITE = 11, RM = 13,
       SET_PERMS = 14, WATCH_EVENT = 15, ERROR = 16 };
enum { PAYLOAD_MAX = 4096 };

struct header { u32 kind, id, transaction, length; };

static struct store_page *store;
static struct console_page *console;
static u32 store_port, console_port;
static u8 *shared_info;

static void yield(void) { hypercall(SCHED_OP, YIELD, 0); }
static void kick(u32 port) { hypercall(EVENT_CHANNEL_OP, SEND, &port); }

// Sleeps until the port has something to say; it may have had that before.
static void sleep_on(u32 port) {
  struct { u32 *ports, count; u64 timeout; } poll = { &port, 1, 0 };
  hypercall(SCHED_OP, POLL, &poll);
  __asm__ volatile("lock btr %1, %0" : "+m"(*(u32 *)(shared_info + 0x800)) : "r"(port) : "memory");
}

static u32 length(const char *text) {
  u32 at = 0;
  while (text[at]) at++;
  return at;
}

static int equal(const char *one, const char *other, u32 count) {
  for (u32 at = 0; at < count; at++)
    if (one[at] != other[at]) return 0;
  return 1;
}

static void print(const char *text) {
  for (; *text; text++) {
    while (console->out_producer - console->out_consumer >= sizeof console->out) yield();
    console->out[console->out_producer % sizeof console->out] = *text;
    BARRIER();
    console->out_producer++;
  }
  kick(console_port);
}

// The decimal digits of a number, in a place that the next 8 calls leave alone.
static char *digits(u32 number) {
  static char texts[8][12];
  static u32 turn;
  char *at = texts[turn++ % 8] + 11;
  *at = 0;
  do *--at = '0' + number % 10; while (number /= 10);
  return at;
}

// A node's place in a tree whose directories stay small: "7/123".
static char *spread(u32 number) {
  static char path[24];
  u32 at = 0;
  for (const char *from = digits(number % 40); *from;) path[at++] = *from++;
  path[at++] = '/';
  for (const char *from = digits(number); *from;) path[at++] = *from++;
  path[at] = 0;
  return path;
}

// Random enough (xorshift), the same in each run.
static u32 dice(void) {
  static u32 state = 2463534242u;
  state ^= state << 13;
  state ^= state >> 17;
  return state ^= state << 5;
}

// Whether the server has given this ring up, and says so in its page.
static int is_lost(void) { return store->error != 0; }

// Sends as much as there is room for within a while; how much that was.
static u32 send_some(const void *from, u32 count) {
  u32 sent = 0, patience = 2000;
  while (sent < count && patience && !is_lost()) {
    u32 room = RING - (store->request_producer - store->request_consumer);
    if (!room) {
      kick(store_port);
      yield();
      patience--;
      continue;
    }
    for (; room && sent < count; room--, sent++) {
      store->requests[store->request_producer % RING] = ((const u8 *)from)[sent];
      BARRIER();
      store->request_producer++;
    }
    kick(store_port);
  }
  return sent;
}

static void receive(void *to, u32 count) {
  for (u32 at = 0; at < count; at++) {
    while (store->response_producer == store->response_consumer) {
      if (is_lost()) return;
      sleep_on(store_port);
    }
    BARRIER();
    u8 byte = store->responses[store->response_consumer % RING];
    if (at < PAYLOAD_MAX) ((u8 *)to)[at] = byte;
    BARRIER();
    // The server sleeps while there is no room.
    int was_full = store->response_producer - store->response_consumer == RING;
    store->response_consumer++;
    if (was_full || at + 1 == count) kick(store_port);
  }
}

static char answer[PAYLOAD_MAX + 1];

static void request(u32 kind, u32 transaction, const void *payload, u32 count) {
  struct header header = { kind, 0, transaction, count };
  send_some(&header, sizeof header);
  send_some(payload, count);
}

// The next answer, whose text is then in `answer`; what kind of answer it was. Events in
// between are dropped. What is lost counts as an error.
static u32 next_answer(void) {
  struct header header;
  do {
    header.kind = ERROR;
    header.length = 0;
    receive(&header, sizeof header);
    receive(answer, header.length);
    answer[header.length < PAYLOAD_MAX ? header.length : PAYLOAD_MAX] = 0;
  } while (header.kind == WATCH_EVENT);
  return header.kind;
}

static u32 ask(u32 kind, u32 transaction, const void *payload, u32 count) {
  request(kind, transaction, payload, count);
  return next_answer();
}

static char text[PAYLOAD_MAX];

// A path and what follows it, as a payload in `text`; its length.
static u32 put(const char *path, const char *number, const char *value) {
  u32 at = 0;
  for (; *path; path++) text[at++] = *path;
  for (; *number; number++) text[at++] = *number;
  text[at++] = 0;
  if (value)
    for (; *value; value++) text[at++] = *value;
  return at;
}

static int writes(u32 transaction, const char *path, const char *number, const char *value) {
  return ask(WRITE, transaction, text, put(path, number, value)) == WRITE;
}
static int reads(const char *path, const char *number, const char *value) {
  return ask(READ, 0, text, put(path, number, 0)) == READ && length(answer) == length(value) &&
         equal(answer, value, length(value));
}

static int store_works(void) {
  for (u32 number = 0; number < 10; number++)
    if (!writes(0, "data/many/", digits(number), "value") || !reads("data/many/", digits(number), "value"))
      return 0;
  return ask(RM, 0, text, put("data/many", "", 0)) == RM && !reads("data/many/", "1", "value") &&
         !writes(0, "/local/domain/0/intruder", "", "1");
}

static void be_steady(void) {
  for (u32 trip = 1;; trip++) {
    char *value = digits(trip);
    if (!writes(0, "data/trips", "", value) || !reads("data/trips", "", value)) {
      print("GUEST lost a round trip\n");
      writes(0, "data/store", "", "lost");
      return;
    }
  }
}

static void tell(const char *what, u32 count, const char *error) {
  print(" ");
  print(what);
  print("=");
  print(digits(count));
  print(error);
}

static void floods_node(u32 transaction, u32 count) {
  request(WRITE, transaction, text, put("data/flood/", spread(count), "x"));
}
static void floods_watch(u32 transaction, u32 count) {
  u32 at = put("data/", digits(count), "token");
  text[at++] = 0;
  request(WATCH, transaction, text, at);
}
static void floods_transaction(u32 transaction, u32 count) {
  (void)count;
  request(TRANSACTION_START, transaction, "", 1);
}
static void floods_size(u32 transaction, u32 count) {
  u32 at = put("data/big", "", 0);
  (void)count;
  while (at < PAYLOAD_MAX) text[at++] = 'x';
  request(WRITE, transaction, text, at);
}
static void floods_permissions(u32 transaction, u32 count) {
  u32 at = put("data", "", 0);
  (void)count;
  for (u32 i = 0; i < 1000; i++) {
    text[at++] = 'n';
    text[at++] = '1';
    text[at++] = 0;
  }
  request(SET_PERMS, transaction, text, at);
}

// Requests, some at once, until one is refused; tells how many were not, and why it was.
static void flood(const char *what, void (*send)(u32, u32), u32 transaction) {
  u32 sent = 0, answered = 0, granted = 0;
  char refusal[16] = "never";
  while (sent < 5000 && granted == answered) {
    for (u32 i = 0; i < 8; i++) send(transaction, sent++);
    for (; answered < sent; answered++) {
      if (next_answer() != ERROR) {
        granted++;
      } else if (granted == answered) {
        for (u32 at = 0; at + 1 < sizeof refusal; at++) refusal[at] = answer[at];
      }
    }
  }
  tell(what, granted, ":");
  print(refusal);
}

static u32 begin(void) {
  u32 transaction = 0;
  ask(TRANSACTION_START, 0, "", 1);
  for (char *at = answer; *at >= '0' && *at <= '9'; at++) transaction = transaction * 10 + *at - '0';
  return transaction;
}

// Each quota, by requests that are well made.
static void flood_all(void) {
  flood("in-transaction", floods_node, begin());
  flood("nodes", floods_node, 0);
  flood("size", floods_size, 0);
  flood("permissions", floods_permissions, 0);
  flood("watches", floods_watch, 0);
  flood("transactions", floods_transaction, 0);
}

// Another connection, without what the one before held. Whether the server began it: it
// is not waited for for ever.
static int begins_anew(void) {
  store->connection = 1;
  for (u32 patience = 20000; patience && store->connection; patience--) {
    kick(store_port);
    yield();
  }
  return !store->connection;
}

// Requests whose answers nobody reads, until none is taken any more.
static void be_deaf(void) {
  u32 count = put("data/flood", "", 0), sent = 0;
  struct header header = { DIRECTORY, 0, 0, count };
  while (sent < 10000 && send_some(&header, sizeof header) == sizeof header && send_some(text, count) == count)
    sent++;
  tell("unread", sent, "");
}

// Nonsense in ring and indices; tells which faults the server found, by their codes.
static void make_noise(void) {
  u32 faults[4] = { 0 }, begun = 0, bursts = 0;
  for (; bursts < 100; bursts++) {
    for (u32 i = 0; i < sizeof store->requests; i++) store->requests[i] = dice();
    for (u32 i = 0; i < sizeof store->responses; i++) store->responses[i] = dice();
    switch (bursts % 4) {
    case 0: // Requests of nonsense, where they may be.
      store->request_producer += dice() % (RING + 1);
      break;
    case 1: // A header of a request that is longer than any may be.
      *(struct header *)store->requests = (struct header){ WRITE, 0, 0, dice() | PAYLOAD_MAX };
      store->request_producer += RING;
      break;
    case 2:
      store->request_producer = dice();
      break;
    default:
      for (u32 i = 0; i < 5; i++) (&store->request_consumer)[i] = dice();
      store->error = dice() % 8;
    }
    for (u32 i = 0; i < 200 && !store->error; i++) {
      kick(store_port);
      yield();
    }
    faults[store->error < 4 ? store->error : 0]++;
    begun += begins_anew();
  }
  tell("bursts", bursts, "");
  tell("anew", begun, "");
  tell("silent", faults[0], "");
  tell("index", faults[2], "");
  tell("protocol", faults[3], "");
}

static void be_hostile(void) {
  for (u32 round = 1;; round++) {
    print("GUEST round");
    flood_all();
    begins_anew();
    be_deaf();
    begins_anew();
    make_noise();
    ask(RM, 0, text, put("data/flood", "", 0));
    tell("done", round, "\n");
  }
}

void guest(const struct given *given) {
  const char *mode = given->command_line;
  store = given->store;
  store_port = given->store_port;
  console = given->console;
  console_port = given->console_port;
  shared_info = given->shared_info;
  print("GUEST up ");
  print(mode);
  print("\n");
  if (equal(mode, "hostile", 8)) be_hostile();
  while (equal(mode, "spin", 5)) {}
  int works = store_works();
  print(works ? "GUEST store ok\n" : "GUEST store failed\n");
  writes(0, "data/store", "", works ? "ok" : "failed");
  if (equal(mode, "steady", 7)) be_steady();
  for (;;) sleep_on(store_port);
}
