/* An NVML for tests: the soname, the symbols and the error codes of the real one, with devices
 * out of a JSON file. nvidia-ml-py loads it as it loads a driver's.
 *
 *   NVML_DEVICES   the file; read again whenever it changes. Not set, or not there: no driver.
 *   NVML_CALL_LOG  a file that gets a line `pid tid function` for each call
 *
 * A key that a device does not have is a query that it does not support. Where a number is
 * wanted, a list of pairs [[seconds, value], ...] is a curve in steps, counted from "start" (Unix
 * time). nvml.py has the shapes of machines that the tests use.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
       TOO_SMALL = 7, NO_DRIVER = 9, VERSION_MISMATCH = 25 };
#define API __attribute__((visibility("default"))) int
typedef struct { uint64_t device; uint64_t instance; } *Device; /* never followed */

/* ------------------------------------------------------------------ JSON */
typedef struct Node {
    char kind; /* { [ " 0 t f n */
    double number;
    char *text, *key;
    struct Node *first, *next;
} Node;

static const char *skip(const char *s) {
    while (*s && strchr(" \t\r\n,:", *s)) s++;
    return s;
}

static const char *parse_text(const char *s, char **out) {
    const char *end = strchr(s + 1, '"'); /* the files have no escapes */
    *out = strndup(s + 1, end - s - 1);
    return end + 1;
}

static const char *parse(const char *s, Node **out) {
    Node *node = *out = calloc(1, sizeof *node);
    s = skip(s);
    node->kind = *s;
    if (*s == '{' || *s == '[') {
        char close = *s == '{' ? '}' : ']';
        Node **tail = &node->first;
        for (s = skip(s + 1); *s && *s != close; s = skip(s)) {
            char *key = NULL;
            if (close == '}') s = parse_text(s, &key);
            s = parse(s, tail);
            (*tail)->key = key;
            tail = &(*tail)->next;
        }
        return s + 1;
    }
    if (*s == '"') return parse_text(s, &node->text);
    if (*s == 't' || *s == 'n') return s + 4;
    if (*s == 'f') return s + 5;
    char *end;
    node->kind = '0';
    node->number = strtod(s, &end);
    return end == s ? s + strlen(s) : end; /* no JSON: give up, do not loop */
}

static Node *get(Node *node, const char *key) {
    if (node && node->kind == '{')
        for (Node *each = node->first; each; each = each->next)
            if (!strcmp(each->key, key)) return each;
    return NULL;
}

static Node *at(Node *node, unsigned index) {
    Node *each = node && node->kind == '[' ? node->first : NULL;
    while (each && index--) each = each->next;
    return each;
}

static unsigned length(Node *node) {
    unsigned count = 0;
    for (Node *each = node && node->kind == '[' ? node->first : NULL; each; each = each->next)
        count++;
    return count;
}

/* ------------------------------------------------------------------ the file, the log, the clock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Node *root;
static int initialized;          /* times, by this process, since the driver was loaded */
static pid_t initialized_by;
static double driver_of_session; /* "driver_loads" counts reloads: each ends all sessions */

static Node *load(void) {
    static char path[4096];
    static struct stat read_at;
    const char *wanted = getenv("NVML_DEVICES");
    struct stat now;
    if (!wanted || stat(wanted, &now)) return NULL;
    pthread_mutex_lock(&lock);
    if (strcmp(path, wanted) || now.st_ino != read_at.st_ino || now.st_size != read_at.st_size ||
        now.st_mtim.tv_nsec != read_at.st_mtim.tv_nsec) {
        FILE *file = fopen(wanted, "r");
        char *text = calloc(1, now.st_size + 1);
        if (file && fread(text, 1, now.st_size, file) == (size_t)now.st_size) {
            Node *fresh;
            parse(text, &fresh); /* the old tree stays: another thread may be reading it */
            root = fresh;
            read_at = now;
            strncpy(path, wanted, sizeof path - 1);
        }
        if (file) fclose(file);
        free(text);
    }
    pthread_mutex_unlock(&lock);
    return root;
}

static void log_call(const char *function) {
    const char *path = getenv("NVML_CALL_LOG");
    if (!path || !*function) return; /* no name: a further question within one call */
    char line[200];
    int size = snprintf(line, sizeof line, "%d %ld %s\n", getpid(), syscall(SYS_gettid), function);
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (file < 0) return;
    if (write(file, line, size) != size) perror("NVML_CALL_LOG");
    close(file);
}

static double elapsed(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    Node *start = get(root, "start");
    return now.tv_sec + now.tv_nsec / 1e9 - (start ? start->number : 0);
}

static double value_of(Node *node, double time_s) {
    if (node->kind != '[') return node->number;
    double value = 0;
    for (Node *step = node->first; step && step->first->number <= time_s; step = step->next)
        value = step->first->next->number;
    return value;
}

/* The area under a curve of steps between 0 and time_s. */
static double integral(Node *node, double time_s) {
    if (node->kind != '[') return node->number * time_s;
    double sum = 0;
    for (Node *step = node->first; step && step->first->number < time_s; step = step->next) {
        double until = step->next && step->next->first->number < time_s ? step->next->first->number
                                                                        : time_s;
        sum += step->first->next->number * (until - step->first->number);
    }
    return sum;
}

static int listed(Node *node, const char *name, int otherwise) {
    Node *found = get(node, name);
    if (!found) found = get(node, "*");
    return found ? (int)found->number : otherwise;
}

static double driver_loads(void) {
    Node *found = get(root, "driver_loads");
    return found ? found->number : 0;
}

static int in_session(void) {
    return initialized && initialized_by == getpid() && driver_of_session == driver_loads();
}

static int enter(const char *function) {
    log_call(function);
    if (!load()) return NO_DRIVER;
    int delay_ms = *function ? listed(get(root, "delay_ms"), function, 0) : 0;
    if (delay_ms) usleep(delay_ms * 1000);
    return listed(get(root, "errors"), function, OK);
}

/* ------------------------------------------------------------------ devices */
static Device handle(unsigned device, unsigned instance) {
    return (Device)(uintptr_t)((device + 1) << 8 | instance);
}

static Node *device_of(Device each) {
    return at(get(root, "devices"), ((uintptr_t)each >> 8) - 1);
}

static Node *instance_of(Device each) {
    unsigned index = (uintptr_t)each & 255;
    return index ? at(get(get(device_of(each), "mig"), "instances"), index - 1) : NULL;
}

/* What is asked: the MIG instance, which answers few questions, or the device. */
static int find(const char *function, Device each, Node **node) {
    int error = enter(function);
    if (error) return error;
    if (!in_session()) return UNINITIALIZED;
    Node *device = device_of(each);
    if (!device) return INVALID;
    *node = (uintptr_t)each & 255 ? instance_of(each) : device;
    return *node ? listed(get(device, "errors"), function, OK) : INVALID;
}

static int number_at(const char *function, Device each, const char *key, const char *within,
                     double *out) {
    Node *node;
    int error = find(function, each, &node);
    if (error) return error;
    Node *found = get(within ? get(node, within) : node, key);
    if (!found) return NOT_SUPPORTED;
    *out = value_of(found, elapsed());
    return OK;
}

static int text_at(const char *function, Device each, const char *key, char *out, unsigned size) {
    Node *node;
    int error = find(function, each, &node);
    if (error) return error;
    Node *found = get(node, key);
    if (!found) return NOT_SUPPORTED;
    if (strlen(found->text) >= size) return TOO_SMALL;
    strcpy(out, found->text);
    return OK;
}

#define NUMBER(function, type, key, within, scale)                                  \
    API function(Device each, type *out) {                                          \
        double found;                                                               \
        int error = number_at(#function, each, key, within, &found);                \
        if (!error) *out = (type)(found * (scale));                                 \
        return error;                                                               \
    }
#define TEXT(function, key)                                                         \
    API function(Device each, char *out, unsigned size) {                           \
        return text_at(#function, each, key, out, size);                            \
    }
#define TWO_NUMBERS(function, within, one, two)                                     \
    API function(Device each, unsigned *first, unsigned *second) {                  \
        double a, b;                                                                \
        int error = number_at(#function, each, one, within, &a);                    \
        if (error) return error;                                                    \
        Node *node = instance_of(each) ? instance_of(each) : device_of(each);       \
        Node *other = get(within ? get(node, within) : node, two);                  \
        b = other ? value_of(other, elapsed()) : 0;                                 \
        *first = (unsigned)a, *second = (unsigned)b;                                \
        return OK;                                                                  \
    }

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetSerial, "serial")
TEXT(nvmlDeviceGetVbiosVersion, "vbios")
NUMBER(nvmlDeviceGetPowerUsage, unsigned, "power", NULL, 1000)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, "power_limit", NULL, 1000)
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned, "power_limit", NULL, 1000)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "throttle", NULL, 1)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "throttle", NULL, 1)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, "generation", "pcie", 1)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned, "width", "pcie", 1)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, "max_generation", "pcie", 1)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned, "max_width", "pcie", 1)
NUMBER(nvmlDeviceGetNumaNodeId, int, "numa_node", NULL, 1)
NUMBER(nvmlDeviceGetMinorNumber, unsigned, "minor", NULL, 1)
NUMBER(nvmlDeviceGetGpuInstanceId, unsigned, "gpu_instance", NULL, 1)
NUMBER(nvmlDeviceGetComputeInstanceId, unsigned, "compute_instance", NULL, 1)
TWO_NUMBERS(nvmlDeviceGetEncoderUtilization, "encoder", "utilization", "period")
TWO_NUMBERS(nvmlDeviceGetDecoderUtilization, "decoder", "utilization", "period")
TWO_NUMBERS(nvmlDeviceGetCudaComputeCapability, "compute_capability", "major", "minor")
TWO_NUMBERS(nvmlDeviceGetMigMode, "mig", "mode", "pending")

API nvmlDeviceGetUtilizationRates(Device each, unsigned out[2]) {
    double found;
    for (int i = 0; i < 2; i++) {
        const char *function = i ? "" : "nvmlDeviceGetUtilizationRates";
        int error = number_at(function, each, i ? "memory" : "gpu", "utilization", &found);
        if (error) return error;
        out[i] = (unsigned)found;
    }
    return OK;
}

/* As the real one: the sum up to the counter's last update. */
API nvmlDeviceGetTotalEnergyConsumption(Device each, unsigned long long *out) {
    Node *node;
    int error = find("nvmlDeviceGetTotalEnergyConsumption", each, &node);
    if (error) return error;
    Node *base = get(node, "energy_base_j"), *step = get(node, "energy_step_ms");
    if (!base || !get(node, "power")) return NOT_SUPPORTED;
    double time_s = elapsed(), step_s = step ? step->number / 1000 : 0;
    if (step_s) time_s = (long long)(time_s / step_s) * step_s;
    *out = (unsigned long long)((base->number + integral(get(node, "power"), time_s)) * 1000);
    return OK;
}

API nvmlDeviceGetTemperature(Device each, unsigned sensor, unsigned *out) {
    double found;
    (void)sensor;
    int error = number_at("nvmlDeviceGetTemperature", each, "temperature", NULL, &found);
    if (!error) *out = (unsigned)found;
    return error;
}

API nvmlDeviceGetClockInfo(Device each, unsigned kind, unsigned *out) {
    static const char *const keys[] = {"graphics", "sm", "memory", "video"};
    double found;
    int error = number_at("nvmlDeviceGetClockInfo", each, keys[kind & 3], "clocks", &found);
    if (!error) *out = (unsigned)found;
    return error;
}

API nvmlDeviceGetTotalEccErrors(Device each, unsigned kind, unsigned counter,
                                unsigned long long *out) {
    double found;
    (void)counter;
    int error = number_at("nvmlDeviceGetTotalEccErrors", each, kind ? "uncorrected" : "corrected",
                          "ecc", &found);
    if (!error) *out = (unsigned long long)found;
    return error;
}

API nvmlDeviceGetPcieThroughput(Device each, unsigned counter, unsigned *out) {
    double found;
    int error = number_at("nvmlDeviceGetPcieThroughput", each, counter ? "receive" : "transmit",
                          "pcie_throughput", &found);
    if (!error) *out = (unsigned)found;
    return error;
}

typedef struct { unsigned long long total, reserved, used; } Memory;

static int memory_of(const char *function, Device each, Memory *out) {
    Node *node;
    int error = find(function, each, &node);
    if (error) return error;
    Node *total = get(node, "memory_total"), *used = get(node, "memory_used"),
         *reserved = get(node, "memory_reserved");
    if (!total || !used) return NOT_SUPPORTED;
    out->total = (unsigned long long)total->number;
    out->reserved = reserved ? (unsigned long long)reserved->number : 0;
    out->used = (unsigned long long)value_of(used, elapsed());
    return OK;
}

/* The first version counts as used what the driver reserves. */
API nvmlDeviceGetMemoryInfo(Device each, unsigned long long out[3]) {
    Memory found;
    int error = memory_of("nvmlDeviceGetMemoryInfo", each, &found);
    if (error) return error;
    out[0] = found.total;
    out[2] = found.used + found.reserved;
    out[1] = out[0] - out[2];
    return OK;
}

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;

API nvmlDeviceGetMemoryInfo_v2(Device each, MemoryV2 *out) {
    Memory found;
    int error = memory_of("nvmlDeviceGetMemoryInfo_v2", each, &found);
    if (error) return error;
    if (out->version != (sizeof *out | 2 << 24)) return VERSION_MISMATCH;
    out->total = found.total, out->reserved = found.reserved, out->used = found.used;
    out->free = found.total - found.reserved - found.used;
    return OK;
}

/* ------------------------------------------------------------------ field values */
typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency_us;
    int32_t type, error;
    uint64_t value;
} FieldValue;

/* "fields": {"197": 5, "138/4294967295": 7}; the part after the slash is the scope, 0 if absent */
API nvmlDeviceGetFieldValues(Device each, int count, FieldValue *values) {
    Node *node;
    int error = find("nvmlDeviceGetFieldValues", each, &node);
    if (error) return error;
    for (int i = 0; i < count; i++) {
        char key[40];
        if (values[i].scope) snprintf(key, sizeof key, "%u/%u", values[i].field, values[i].scope);
        else snprintf(key, sizeof key, "%u", values[i].field);
        Node *found = get(get(node, "fields"), key);
        values[i].error = found ? OK : NOT_SUPPORTED;
        values[i].type = 3; /* unsigned long long */
        values[i].latency_us = 5;
        if (found) values[i].value = (uint64_t)value_of(found, elapsed());
    }
    return OK;
}

/* ------------------------------------------------------------------ processes */
typedef struct { unsigned pid; unsigned long long memory; unsigned gi, ci; } Process;

static int processes(const char *function, const char *key, Device each, unsigned *count,
                     Process *out) {
    Node *node;
    int error = find(function, each, &node);
    if (error) return error;
    Node *list = get(node, key);
    if (!list) return NOT_SUPPORTED;
    unsigned found = length(list), room = *count;
    *count = found;
    if (found > room) return TOO_SMALL;
    for (unsigned i = 0; i < found; i++) {
        Node *one = at(list, i), *memory = get(one, "memory");
        out[i].pid = (unsigned)get(one, "pid")->number;
        out[i].memory = memory ? (unsigned long long)memory->number : ~0ULL;
        out[i].gi = out[i].ci = ~0U;
    }
    return OK;
}

API nvmlDeviceGetComputeRunningProcesses_v3(Device each, unsigned *count, Process *out) {
    return processes("nvmlDeviceGetComputeRunningProcesses_v3", "processes", each, count, out);
}

/* ------------------------------------------------------------------ how devices are connected */
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;

static void fill_pci(Node *text, Pci *out) {
    memset(out, 0, sizeof *out);
    sscanf(text->text, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    snprintf(out->legacy, sizeof out->legacy, "%04X:%02X:%02X.0", out->domain & 0xffff,
             out->bus & 0xff, out->device & 0xff);
    strncpy(out->bus_id, text->text, sizeof out->bus_id - 1);
}

API nvmlDeviceGetPciInfo_v3(Device each, Pci *out) {
    Node *node;
    int error = find("nvmlDeviceGetPciInfo_v3", each, &node);
    if (error) return error;
    if (!get(node, "bus_id")) return NOT_SUPPORTED;
    fill_pci(get(node, "bus_id"), out);
    return OK;
}

/* One of two devices' "ancestors" or "p2p", by the index of the other; either may name the other. */
static Node *between(Device one, Device other, const char *key) {
    char index[16];
    snprintf(index, sizeof index, "%u", (unsigned)((uintptr_t)other >> 8) - 1);
    Node *found = get(get(device_of(one), key), index);
    snprintf(index, sizeof index, "%u", (unsigned)((uintptr_t)one >> 8) - 1);
    return found ? found : get(get(device_of(other), key), index);
}

API nvmlDeviceGetTopologyCommonAncestor(Device one, Device other, unsigned *out) {
    Node *node;
    int error = find("nvmlDeviceGetTopologyCommonAncestor", one, &node);
    if (error) return error;
    Node *found = between(one, other, "ancestors");
    if (!found) return NOT_SUPPORTED;
    *out = (unsigned)found->number;
    return OK;
}

API nvmlDeviceGetP2PStatus(Device one, Device other, unsigned capability, unsigned *out) {
    Node *node;
    int error = find("nvmlDeviceGetP2PStatus", one, &node);
    if (error) return error;
    Node *found = at(between(one, other, "p2p"), capability);
    if (!found) return NOT_SUPPORTED;
    *out = (unsigned)found->number;
    return OK;
}

static int affinity(const char *function, const char *key, Device each, unsigned size,
                    unsigned long *out) {
    Node *node;
    int error = find(function, each, &node);
    if (error) return error;
    Node *words = get(node, key);
    if (!words) return NOT_SUPPORTED;
    memset(out, 0, size * sizeof *out);
    for (unsigned i = 0; i < size && at(words, i); i++)
        out[i] = strtoul(at(words, i)->text, NULL, 16);
    return OK;
}

API nvmlDeviceGetCpuAffinity(Device each, unsigned size, unsigned long *out) {
    return affinity("nvmlDeviceGetCpuAffinity", "cpu_affinity", each, size, out);
}

API nvmlDeviceGetMemoryAffinity(Device each, unsigned size, unsigned long *out, unsigned scope) {
    (void)scope;
    return affinity("nvmlDeviceGetMemoryAffinity", "memory_affinity", each, size, out);
}

static int link_at(const char *function, Device each, unsigned link, const char *key, Node **out) {
    Node *node;
    int error = find(function, each, &node);
    if (error) return error;
    if (!get(node, "nvlinks")) return NOT_SUPPORTED;
    Node *found = at(get(node, "nvlinks"), link);
    if (!found) return INVALID;
    *out = get(found, key);
    return *out ? OK : NOT_SUPPORTED;
}

#define LINK_NUMBER(function, key)                                                  \
    API function(Device each, unsigned link, unsigned *out) {                       \
        Node *found;                                                                \
        int error = link_at(#function, each, link, key, &found);                    \
        if (!error) *out = (unsigned)found->number;                                 \
        return error;                                                               \
    }
LINK_NUMBER(nvmlDeviceGetNvLinkState, "active")
LINK_NUMBER(nvmlDeviceGetNvLinkVersion, "version")
LINK_NUMBER(nvmlDeviceGetNvLinkRemoteDeviceType, "remote_type")

API nvmlDeviceGetNvLinkRemotePciInfo_v2(Device each, unsigned link, Pci *out) {
    Node *found;
    int error = link_at("nvmlDeviceGetNvLinkRemotePciInfo_v2", each, link, "remote", &found);
    if (!error) fill_pci(found, out);
    return error;
}

/* ------------------------------------------------------------------ MIG */
API nvmlDeviceGetMaxMigDeviceCount(Device each, unsigned *out) {
    Node *node;
    int error = find("nvmlDeviceGetMaxMigDeviceCount", each, &node);
    *out = 7;
    return error ? error : get(node, "mig") ? OK : NOT_SUPPORTED;
}

API nvmlDeviceGetMigDeviceHandleByIndex(Device each, unsigned index, Device *out) {
    Node *node;
    int error = find("nvmlDeviceGetMigDeviceHandleByIndex", each, &node);
    if (error) return error;
    if (!at(get(get(node, "mig"), "instances"), index)) return NOT_FOUND;
    *out = handle(((uintptr_t)each >> 8) - 1, index + 1);
    return OK;
}

API nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Device each, Device *out) {
    *out = handle(((uintptr_t)each >> 8) - 1, 0);
    return enter("nvmlDeviceGetDeviceHandleFromMigDeviceHandle");
}

/* ------------------------------------------------------------------ the library itself */
API nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int error = enter("nvmlInitWithFlags");
    if (error) return error;
    initialized = in_session() ? initialized + 1 : 1;
    initialized_by = getpid();
    driver_of_session = driver_loads();
    return OK;
}

API nvmlShutdown(void) {
    log_call("nvmlShutdown");
    if (!in_session()) return UNINITIALIZED;
    initialized--;
    return OK;
}

__attribute__((visibility("default"))) const char *nvmlErrorString(int error) {
    switch (error) {
        case OK: return "Success";
        case NOT_SUPPORTED: return "Not Supported";
        case NO_DRIVER: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        default: return "Unknown Error";
    }
}

static int system_text(const char *function, const char *key, char *out, unsigned size) {
    int error = enter(function);
    if (error) return error;
    Node *found = get(root, key);
    if (!found) return NOT_SUPPORTED;
    snprintf(out, size, "%s", found->text);
    return OK;
}

API nvmlSystemGetDriverVersion(char *out, unsigned size) {
    return system_text("nvmlSystemGetDriverVersion", "driver", out, size);
}

static int cuda_version(const char *function, int *out) {
    int error = enter(function);
    if (error) return error;
    if (!get(root, "cuda")) return NOT_SUPPORTED;
    *out = (int)get(root, "cuda")->number;
    return OK;
}

API nvmlSystemGetCudaDriverVersion(int *out) {
    return cuda_version("nvmlSystemGetCudaDriverVersion", out);
}

API nvmlSystemGetCudaDriverVersion_v2(int *out) {
    return cuda_version("nvmlSystemGetCudaDriverVersion_v2", out);
}

API nvmlDeviceGetCount_v2(unsigned *out) {
    int error = enter("nvmlDeviceGetCount_v2");
    if (error) return error;
    if (!in_session()) return UNINITIALIZED;
    *out = length(get(root, "devices"));
    return OK;
}

API nvmlDeviceGetHandleByIndex_v2(unsigned index, Device *out) {
    int error = enter("nvmlDeviceGetHandleByIndex_v2");
    if (error) return error;
    if (!in_session()) return UNINITIALIZED;
    Node *device = at(get(root, "devices"), index);
    if (!device) return INVALID;
    *out = handle(index, 0);
    return listed(get(device, "errors"), "nvmlDeviceGetHandleByIndex_v2", OK);
}
