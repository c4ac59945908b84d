/*
 * OpenSearch and Elasticsearch refuse to start where a process may have fewer than 65,535 files open. Some engines may
 * not give a container that many, and the lab's small indexes need few: there this library is preloaded (see boot) and
 * answers the question for them. The kernel's limit stays what it is.
 */
#define _GNU_SOURCE
#include <sys/resource.h>

static int answer(int resource, struct rlimit *limit)
{
    int failed = prlimit(0, resource, 0, limit);
    if (!failed && resource == RLIMIT_NOFILE && limit->rlim_cur < 65536)
        limit->rlim_cur = limit->rlim_max = 65536;
    return failed;
}

int getrlimit(__rlimit_resource_t resource, struct rlimit *limit) { return answer(resource, limit); }

int getrlimit64(__rlimit_resource_t resource, struct rlimit64 *limit)
{
    return answer(resource, (struct rlimit *)limit);
}
