/*
 * grace.c ends the grace period when it is over.
 *
 * After a restart Ganesha gives out only what clients had before, until all
 * clients on record have said RECLAIM_COMPLETE, or the grace period has passed.
 * Clients reclaim within milliseconds of the start; but Ganesha looks whether
 * they have only each time its reaper runs, every half lease, and everybody's new
 * opens wait for that. So this library wakes the reaper more often, with the
 * function that Ganesha itself has for it, for as long as a grace period may
 * last. What the reaper does, and what it decides by, stays Ganesha's.
 *
 *	start   reaper made                                  grace period over
 *	  |         | wake wake wake  wake   wake    wake     wake |
 *	  +---------+--------------------------------------------->+---> every half lease
 *
 * A client asks again after 0.1 s at the soonest (Linux), so at first the reaper
 * is woken as often. Who has waited for long may wait a sixteenth of that more.
 * It is some fifty times for a grace period of 15 s, then never. Each time that
 * grace does not end, Ganesha writes a line in its log.
 *
 * The environment:
 *	CAUSEWAY_GRACE  the grace period in whole seconds; without it Ganesha keeps
 *	                its own pace
 *
 * The reaper is not woken any more when Ganesha gives a command to one of its
 * thread pools, as it does when it ends: it complains of a pool that is woken
 * while it stops.
 *
 * Whatever is missing leaves Ganesha's own pace, and a line on stderr. No layout
 * of Ganesha's is relied on, only the names and arguments of three functions.
 *
 * Learned from Ganesha 4.3 and 6.2: src/MainNFSD/nfs_reaper_thread.c,
 * src/SAL/nfs4_recovery.c and src/support/fridgethr.c.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "preload.h"

enum {
	soonest = 100, /* milliseconds between two wakes */
	latest = 1000,
	share = 16, /* of the time that has passed, between two wakes */
	/* Grace begins before the reaper is made, and is measured in whole seconds. */
	spare = 1000,
	longest = 3600, /* seconds of a grace period */
	stack = 256 << 10,
};

static int (*next_init)(void **, const char *, const void *);
static int (*next_command)(void *, int, time_t);
static void (*wake)(void);

static _Atomic long period; /* milliseconds; 0: Ganesha's own pace */

static pthread_mutex_t waking = PTHREAD_MUTEX_INITIALIZER;
static bool ending; /* under waking */

static bool woken(void)
{
	bool go;

	pthread_mutex_lock(&waking);
	go = !ending;
	if (go)
		wake();
	pthread_mutex_unlock(&waking);
	return go;
}

static void *pace(void *unused)
{
	long passed = 0;

	(void)unused;
	pthread_setname_np(pthread_self(), "grace");
	while (passed < period + spare && woken()) {
		long ms = passed / share;
		struct timespec t;

		if (ms < soonest)
			ms = soonest;
		if (ms > latest)
			ms = latest;
		t.tv_sec = ms / 1000;
		t.tv_nsec = ms % 1000 * 1000000;
		nanosleep(&t, NULL); /* nothing interrupts it: see keep_pace */
		passed += ms;
	}
	return NULL;
}

static void keep_pace(void)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int status;

	/* Signals are for Ganesha's own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, stack);
	status = pthread_create(&thread, &attributes, pace, NULL);
	pthread_attr_destroy(&attributes);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (status != 0)
		say(STDERR_FILENO, "grace", "no thread can be made: it ends at Ganesha's own pace");
}

/* Ganesha makes a pool of threads. */
EXPORTED int fridgethr_init(void **pool, const char *name, const void *parameters)
{
	int status = next_init(pool, name, parameters);

	if (status == 0 && period > 0 && name != NULL && strcmp(name, "reaper") == 0)
		keep_pace();
	return status;
}

/* Ganesha gives one a command, such as to stop. */
EXPORTED int fridgethr_sync_command(void *pool, int command, time_t timeout)
{
	pthread_mutex_lock(&waking);
	ending = true;
	pthread_mutex_unlock(&waking);
	return next_command(pool, command, timeout);
}

static struct call calls[] = {
	{ .name = "fridgethr_init", .here = fridgethr_init },
	{ .name = "fridgethr_sync_command", .here = fridgethr_sync_command },
};

void grace_loaded(void)
{
	if (period == 0)
		return;
	find_callers(calls, sizeof(calls) / sizeof(calls[0]));
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		if (calls[i].bound && !calls[i].past)
			continue;
		say(STDERR_FILENO, calls[i].name, "is not called here: grace ends at Ganesha's own pace");
		period = 0;
	}
}

void grace_start(void)
{
	const char *seconds = getenv("CAUSEWAY_GRACE");
	char *end;
	long n;

	/* Not there in another program, which then calls none of ours either. */
	*(void **)&next_init = dlsym(RTLD_NEXT, "fridgethr_init");
	*(void **)&next_command = dlsym(RTLD_NEXT, "fridgethr_sync_command");
	*(void **)&wake = dlsym(RTLD_NEXT, "reaper_wake");
	if (seconds == NULL || next_init == NULL)
		return;
	n = strtol(seconds, &end, 10);
	if (*end != '\0' || n < 1 || n > longest) {
		say(STDERR_FILENO, "CAUSEWAY_GRACE", "is no number of seconds: grace ends at Ganesha's own pace");
		return;
	}
	if (wake == NULL || next_command == NULL) {
		say(STDERR_FILENO, "reaper_wake", "is not in Ganesha: grace ends at Ganesha's own pace");
		return;
	}
	period = n * 1000;
}
