/*
 * LD_PRELOAD stub that lets Debian's xenstored and oxenstored run on plain
 * Linux, without a hypervisor, so that they can be compared with.
 *
 * XSFAKE_DIR names the directory of the make-believe machine:
 *   dom<N>.ring    the ring page of domain N, 4096 bytes, shared by mapping
 *   dom<N>.alive   domain N exists; a non-empty file means it has shut down
 *   xsd_port       the event channel of domain 0, as /proc/xen/xsd_port
 *   evtchn.sock    datagram socket of the daemon: takes a u32 local port
 *   dom<N>.sock    datagram socket of domain N: gets a u32 for each kick
 * Local ports: 1 is domain 0, 2 is VIRQ_DOM_EXC, 1000 + N is domain N.
 *
 * With XSFAKE_PIPE=1, standard input is a pipe from whoever started the daemon,
 * and the daemon ends when its writer is gone: no daemon outlives its test.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>

enum {
	PORT_VIRQ = 2,
	PORT_GUEST = 1000,
	RING_SIZE = 4096,
	LAST_DOMID = 2048,
	PATH_SIZE = 512,
};

/* Formats a path inside XSFAKE_DIR into `to`, which holds PATH_SIZE bytes. */
static void inside(char *to, const char *format, ...)
{
	const char *dir = getenv("XSFAKE_DIR");
	int used = snprintf(to, PATH_SIZE, "%s/", dir ? dir : ".");
	va_list args;

	va_start(args, format);
	vsnprintf(to + used, PATH_SIZE - used, format, args);
	va_end(args);
}

/* ---- life time ---------------------------------------------------------- */

static void *end_with_pipe(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char byte;

	while (read(fd, &byte, 1) != 0)
		;
	_exit(0);
}

__attribute__((constructor)) static void watch_pipe(void)
{
	const char *wanted = getenv("XSFAKE_PIPE");
	pthread_t thread;
	int fd;

	if (!wanted || strcmp(wanted, "1"))
		return;
	fd = fcntl(0, F_DUPFD_CLOEXEC, 3);
	if (fd >= 0)
		pthread_create(&thread, NULL, end_with_pipe, (void *)(intptr_t)fd);
}

/* The daemons raise their limit of open files as root would; it is enough as it
 * is, and a refusal would end them. */
int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
	(void)resource;
	(void)limit;
	return 0;
}

/* ---- files -------------------------------------------------------------- */

/* Where a path of the real dom0 lies in the make-believe machine. */
static const char *moved(const char *path, char *buffer)
{
	static const char run[] = "/var/run/xenstored";
	size_t len = sizeof(run) - 1;

	if (!strcmp(path, "/proc/xen/xsd_kva"))
		inside(buffer, "dom0.ring");
	else if (!strcmp(path, "/proc/xen/xsd_port"))
		inside(buffer, "xsd_port");
	else if (!strncmp(path, run, len) && (path[len] == '/' || !path[len]))
		inside(buffer, "%s", path[len] ? path + len + 1 : ".");
	else
		return path;
	return buffer;
}

#define DEFINE_OPEN(name)                                                     \
	int name(const char *path, int flags, ...)                            \
	{                                                                     \
		static int (*real)(const char *, int, ...);                   \
		char buffer[PATH_SIZE];                                       \
		int mode = 0;                                                 \
                                                                              \
		if (flags & (O_CREAT | __O_TMPFILE)) {                        \
			va_list args;                                         \
			va_start(args, flags);                                \
			mode = va_arg(args, int);                             \
			va_end(args);                                         \
		}                                                             \
		if (!real)                                                    \
			real = dlsym(RTLD_NEXT, #name);                       \
		return real(moved(path, buffer), flags, mode);                \
	}
DEFINE_OPEN(open)
DEFINE_OPEN(open64)

int unlink(const char *path)
{
	static int (*real)(const char *);
	char buffer[PATH_SIZE];

	if (!real)
		real = dlsym(RTLD_NEXT, "unlink");
	return real(moved(path, buffer));
}

int bind(int fd, const struct sockaddr *address, socklen_t len)
{
	static int (*real)(int, const struct sockaddr *, socklen_t);
	char buffer[PATH_SIZE];
	struct sockaddr_un local = { 0 };
	const char *path;

	if (!real)
		real = dlsym(RTLD_NEXT, "bind");
	if (address->sa_family != AF_UNIX || len > sizeof(local))
		return real(fd, address, len);
	memcpy(&local, address, len);
	path = moved(local.sun_path, buffer);
	if (path == local.sun_path)
		return real(fd, address, len);
	if (strlen(path) >= sizeof(local.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(local.sun_path, path);
	return real(fd, (void *)&local, sizeof(local));
}

/* ---- libxenevtchn ------------------------------------------------------- */

struct xenevtchn_handle {
	int fd;
};
static struct xenevtchn_handle evtchn = { .fd = -1 };

xenevtchn_handle *xenevtchn_open(struct xentoollog_logger *logger, unsigned int flags)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char path[PATH_SIZE];

	(void)logger;
	(void)flags;
	inside(path, "evtchn.sock");
	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	strcpy(address.sun_path, path);
	unlink(path);
	evtchn.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	if (bind(evtchn.fd, (void *)&address, sizeof(address))) {
		perror("xenfake: cannot bind evtchn.sock");
		return NULL;
	}
	return &evtchn;
}

xenevtchn_handle *xenevtchn_fdopen(struct xentoollog_logger *logger, int fd, unsigned open_flags)
{
	(void)logger;
	(void)open_flags;
	evtchn.fd = fd;
	return &evtchn;
}

int xenevtchn_close(xenevtchn_handle *handle)
{
	return close(handle->fd);
}

int xenevtchn_fd(xenevtchn_handle *handle)
{
	return handle->fd;
}

xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle *handle, unsigned int virq)
{
	(void)handle;
	(void)virq;
	return PORT_VIRQ;
}

xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle *handle, uint32_t domid,
						     evtchn_port_t remote_port)
{
	(void)handle;
	(void)remote_port;
	return PORT_GUEST + domid;
}

int xenevtchn_unbind(xenevtchn_handle *handle, evtchn_port_t port)
{
	(void)handle;
	(void)port;
	return 0;
}

int xenevtchn_unmask(xenevtchn_handle *handle, evtchn_port_t port)
{
	(void)handle;
	(void)port;
	return 0;
}

xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle *handle)
{
	uint32_t port;

	return recv(handle->fd, &port, sizeof(port), 0) == sizeof(port) ? (int)port : -1;
}

int xenevtchn_notify(xenevtchn_handle *handle, evtchn_port_t port)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	char path[PATH_SIZE];
	uint32_t kick = port;

	inside(path, "dom%d.sock", (int)port - PORT_GUEST);
	if (strlen(path) < sizeof(address.sun_path)) {
		strcpy(address.sun_path, path);
		/* A full or missing socket is a guest that does not listen. */
		sendto(handle->fd, &kick, sizeof(kick), MSG_DONTWAIT, (void *)&address,
		       sizeof(address));
	}
	return 0;
}

/* ---- libxengnttab and libxenctrl ---------------------------------------- */

struct fake_gnttab {
	int unused;
};
static struct fake_gnttab gnttab;

static void *map_ring(uint32_t domid)
{
	char path[PATH_SIZE];
	void *page;
	int fd;

	inside(path, "dom%u.ring", domid);
	fd = open(path, O_RDWR);
	if (fd < 0)
		return NULL;
	page = mmap(NULL, RING_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return page == MAP_FAILED ? NULL : page;
}

xengnttab_handle *xengnttab_open(struct xentoollog_logger *logger, unsigned int flags)
{
	(void)logger;
	(void)flags;
	return (xengnttab_handle *)&gnttab;
}

int xengnttab_close(xengnttab_handle *handle)
{
	(void)handle;
	return 0;
}

int xengnttab_set_max_grants(xengnttab_handle *handle, uint32_t count)
{
	(void)handle;
	(void)count;
	return 0;
}

void *xengnttab_map_grant_ref(xengnttab_handle *handle, uint32_t domid, uint32_t ref, int prot)
{
	(void)handle;
	(void)ref;
	(void)prot;
	return map_ring(domid);
}

int xengnttab_unmap(xengnttab_handle *handle, void *page, uint32_t count)
{
	(void)handle;
	return munmap(page, (size_t)RING_SIZE * count);
}

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *dombuild_logger,
				unsigned open_flags)
{
	(void)logger;
	(void)dombuild_logger;
	(void)open_flags;
	return (xc_interface *)&gnttab;
}

int xc_interface_close(xc_interface *handle)
{
	(void)handle;
	return 0;
}

void *xc_map_foreign_range(xc_interface *handle, uint32_t domid, int size, int prot,
			   unsigned long mfn)
{
	(void)handle;
	(void)size;
	(void)prot;
	(void)mfn;
	return map_ring(domid);
}

enum domain_state { DOM_ABSENT, DOM_RUNNING, DOM_SHUTDOWN };

static enum domain_state state_of(uint32_t domid)
{
	char path[PATH_SIZE];
	struct stat st;

	if (domid == 0)
		return DOM_RUNNING;
	inside(path, "dom%u.alive", domid);
	if (stat(path, &st))
		return DOM_ABSENT;
	return st.st_size ? DOM_SHUTDOWN : DOM_RUNNING;
}

/* The daemons ask for one domain at a time and check which one they were told
 * of, so an absent domain simply yields none. */
int xc_domain_getinfo(xc_interface *handle, uint32_t first, unsigned int max, xc_dominfo_t *info)
{
	enum domain_state state = state_of(first);

	(void)handle;
	if (state == DOM_ABSENT || max == 0)
		return 0;
	memset(info, 0, sizeof(*info));
	info->domid = first;
	info->running = 1;
	info->shutdown = state == DOM_SHUTDOWN;
	return 1;
}

int xc_domain_getinfolist(xc_interface *handle, uint32_t first, unsigned int max,
			  xc_domaininfo_t *info)
{
	unsigned int found = 0;

	(void)handle;
	for (uint32_t domid = first; domid < LAST_DOMID && found < max; domid++) {
		enum domain_state state = state_of(domid);

		if (state == DOM_ABSENT)
			continue;
		memset(&info[found], 0, sizeof(info[found]));
		info[found].domain = domid;
		info[found].flags =
			state == DOM_SHUTDOWN ? XEN_DOMINF_shutdown : XEN_DOMINF_running;
		found++;
	}
	return found;
}
