

def main():
    wire = take_socket()
    if sys.argv[1:] == ["zygote"]:
        hello(wire)
        zygote = Zygote(wire)
        zygote.prepare()
        wire = zygote.run()
    serve(wire)


main()
